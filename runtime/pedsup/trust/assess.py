"""Whether a model file may be run: signature, manifest, weights, and what was known of it before.

Cheap checks come first and before llama.cpp sees the file (`assess`: two small files, one
signature); then the weights, once per file (`verify_weights`); then, after loading, that the file
is still the one that was checked (`require_same`).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pedsup.errors import PedsupError, UntrustedError
from pedsup.files.timestamp import is_before
from pedsup.gguf_file import GGUFHeader
from pedsup.messages import message, reason_of
from pedsup.progress import say
from pedsup.trust import blocks
from pedsup.trust.blocks import sample
from pedsup.trust.bundle import COPY, Signature, read_signature, signature_path, signed_files
from pedsup.trust.identity import ModelIdentity
from pedsup.trust.manifest import manifest_path
from pedsup.trust.store import KnownModel, TrustedKey, TrustStore, load_store
from pedsup.trust.verdict import Signed, Trust, Weights
from pedsup.trust.verified import (
    FileState,
    Reading,
    read_in_full,
    record_reading,
    recorded_reading,
    require_same,
)

_HOW_TO_TRUST = message(
    "get the signer's .pub file, compare its words with the signer, then: "
    "pedsup-run trust add KEY.pub"
)


@dataclass(frozen=True)
class Policy:
    """What is asked of a file."""

    require_signature: bool = False
    verify: bool = False
    """Read the whole file even if it was read before."""
    key_given: bool = False
    """The signature must be by the one key in the store, which the user named for this check."""
    as_before: bool = True
    """Refuse a model that came signed before and does not now."""


@dataclass(frozen=True)
class Bound:
    """What an adapter's manifest says of the model that it was made for."""

    sha256: str
    """Of the model's whole file."""
    key: TrustedKey | None = None
    """The trusted key that signed the adapter, and so this digest."""


def assess(
    header: GGUFHeader,
    identity: ModelIdentity,
    store: TrustStore,
    policy: Policy,
    bound: Bound | None = None,
) -> Trust:
    """Every check that does not read the weights.

    Args:
        bound: what the adapter beside it says of its bytes.

    Raises:
        UntrustedError: signature, manifest or file do not fit together or are damaged, the model is
            known to be signed by another key, or a signature is required and there is none that
            is trusted.
    """
    path = header.path
    state = FileState.of(path)
    vouched = _vouched(path, identity, store, bound)
    _require_policy(policy, vouched, store, identity, path)
    known = recorded_reading(path, state, identity.digest)
    created = identity.manifest.created if identity.manifest else ""
    if vouched.sha256 is not None and known is not None and known.sha256 != vouched.sha256:
        raise _other_bytes(path, known.sha256, vouched.sha256)
    return Trust(
        path=path,
        name=identity.name,
        header_sha256=identity.digest,
        state=state,
        signed=vouched.signed,
        key=vouched.key,
        hint=vouched.signature.hint if vouched.signature else None,
        expected_sha256=vouched.sha256,
        weights=_weights(vouched.sha256, known, policy),
        store=store,
        blocks=known.blocks if known is not None else None,
        created=created,
        newer=_newer(store, path, vouched, created),
    )


@dataclass(frozen=True)
class _Vouched:
    """Who vouches for a file, and for which bytes."""

    signed: Signed
    key: TrustedKey | None
    """The trusted key that signed the file, or the adapter that names it."""
    signature: Signature | None
    sha256: str | None
    """Of the whole file, as the signature, the manifest or the adapter says."""


def _vouched(
    path: Path, identity: ModelIdentity, store: TrustStore, bound: Bound | None
) -> _Vouched:
    """Read what is beside the file. Raises `UntrustedError` where it does not fit together."""
    if identity.problem:
        raise UntrustedError(identity.problem, where=manifest_path(path), remedy=COPY)
    manifest = identity.manifest
    sha256 = manifest.file.sha256 if manifest else None
    signed: Signed = "unsigned"
    signature = key = None
    beside = signature_path(path)
    if beside.exists():
        signature = read_signature(beside)
        key = store.by_hint(signature.hint)
        sha256 = signed_files(signature, manifest, key.key if key else None).model_sha256
        signed = "signed" if key else "unknown-key"
    elif bound is not None and bound.key is not None:
        signed, key = "by-adapter", bound.key
    if bound is not None and sha256 not in (None, bound.sha256):
        raise _other_bytes(path, str(sha256), bound.sha256)
    return _Vouched(signed, key, signature, sha256 or (bound.sha256 if bound else None))


def _require_policy(
    policy: Policy, vouched: _Vouched, store: TrustStore, identity: ModelIdentity, path: Path
) -> None:
    if policy.as_before:
        own = vouched.key if vouched.signed == "signed" else None
        _require_as_before(store, identity, path, own)
    if policy.require_signature and vouched.signed not in ("signed", "by-adapter"):
        raise _signature_required(signature_path(path), vouched.signature, policy)


def _newer(store: TrustStore, path: Path, vouched: _Vouched, created: str) -> str:
    """When a later export than this one was made that ran at its place; '' if none did."""
    if vouched.key is None or vouched.signed != "signed":
        return ""
    found = store.newest_at(path, vouched.key.key)
    return next((newest for newest in found if is_before(created, newest)), "")


def verify_weights(trust: Trust, *, remember: bool = True) -> Trust:
    """Read the whole file, and its drafter, if that was not done before, and remember it.

    Args:
        remember: that this model is signed by its key; from then on it must stay so.

    Raises:
        UntrustedError: a byte of it differs from what was signed or recorded, or the file changed.
    """
    if trust.weights == "unread" and trust.expected_sha256 is not None:
        found = read_in_full(trust.path, trust.state)
        if found.sha256 != trust.expected_sha256:
            raise _other_bytes(trust.path, found.sha256, trust.expected_sha256)
        record_reading(trust.path, trust.state, trust.header_sha256, found)
        trust = replace(trust, weights="read", blocks=found.blocks)
    elif trust.weights == "earlier" and trust.blocks is not None:
        sample(trust.path, trust.blocks)
    checked = {k: verify_weights(one, remember=remember) for k, one in trust.companions.items()}
    trust = replace(trust, companions=checked)
    if trust.key is not None and trust.signed == "signed" and remember:
        _remember(trust, trust.key)
    return trust


def watch(
    trust: Trust, on_difference: Callable[[UntrustedError], object]
) -> tuple[blocks.Watch, ...]:
    """Read the files again beside the session, where their times prove nothing."""
    own = () if trust.blocks is None else (blocks.Watch(trust.path, trust.blocks, on_difference),)
    return sum((watch(one, on_difference) for one in trust.companions.values()), own)


def confirm_loaded(trust: Trust) -> None:
    """Raise `UntrustedError` if what llama.cpp opened by its name is not what was checked."""
    require_same(trust.path, trust.state)
    for one in trust.companions.values():
        confirm_loaded(one)


def _weights(expected: str | None, known: Reading | None, policy: Policy) -> Weights:
    if expected is None:
        return "nothing-to-compare"
    return "earlier" if known is not None and not policy.verify else "unread"


def _require_as_before(
    store: TrustStore, identity: ModelIdentity, path: Path, key: TrustedKey | None
) -> None:
    """A model that came signed stays signed by the same key."""
    for earlier in store.known(identity.name, path):
        if key is not None and earlier.key == key.key.fingerprint:
            continue
        before = next((k.name for k in store.keys if k.key.fingerprint == earlier.key), None)
        raise UntrustedError(
            message(
                "the model '{model}' was signed by {before} ({key}) before, and is signed by "
                "'{name}' now",
                model=earlier.name,
                before=before or message("the key"),
                key=earlier.key[:16],
                name=key.name,
            )
            if key
            else message(
                "the model '{model}' was signed by {before} ({key}) before, and no "
                "longer has that signature",
                model=earlier.name,
                before=before or message("the key"),
                key=earlier.key[:16],
            ),
            where=path,
            wanted="the same signer, or your confirmation that the change is intended",
            remedy=message(
                "ask the signer; if the change is intended: pedsup-run trust unpin {model}",
                model=shlex.quote(earlier.name),
            ),
        )


def _remember(trust: Trust, key: TrustedKey) -> None:
    known = KnownModel.of(trust.name, trust.path, key.key, trust.created)
    if trust.store.with_model(known) is trust.store:
        return
    try:
        # Read anew: another terminal may have added a key while this one read the file.
        load_store(trust.store.path).with_model(known).save()
    except (OSError, PedsupError) as error:
        say(
            message(
                "note: the signer of this model could not be saved ({reason})",
                reason=reason_of(error),
            )
        )


def _signature_required(
    beside: Path, signature: Signature | None, policy: Policy
) -> UntrustedError:
    if signature is not None and policy.key_given:
        return UntrustedError(
            message(
                "the model is signed by a key other than the one given ({key})",
                key=signature.hint[:16],
            ),
            where=beside,
            wanted="a signature by the key given with --key",
            remedy="ask the signer which key has this in its line `in the .sig`",
        )
    if signature is not None:
        return UntrustedError(
            message(
                "the model is signed by a key that is not trusted here ({key})",
                key=signature.hint[:16],
            ),
            where=beside,
            wanted="a signature by a trusted key (require_signature is set)",
            remedy=_HOW_TO_TRUST,
        )
    return UntrustedError(
        "the model is not signed",
        where=beside,
        wanted="a signature by a trusted key (require_signature is set)",
        remedy="get the .sig file from where the model came from, or sign it: pedsup-export sign",
    )


def _other_bytes(path: Path, found: str, expected: str) -> UntrustedError:
    return UntrustedError(
        "the model file is not the one that was exported: it is damaged or was changed",
        where=path,
        wanted=message("SHA-256 {wanted}, not {found}", wanted=expected, found=found),
        remedy=COPY,
    )
