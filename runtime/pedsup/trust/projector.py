"""A model and its projector: whether the file with the towers is the one made with the model.

The manifest of a model names its projector by the digest of its header and of all its bytes
(`core.mmproj`), so that the model's signature vouches for both. A projector says what its towers
were made of (`MMPROJ_KEY`): an update of a model that changes no tower keeps its projector. One
without that key, as llama.cpp's converter writes it, runs with a warning.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from pedsup.errors import MismatchError, PedsupError, UnsupportedError, UntrustedError
from pedsup.gguf_file import GGUFHeader, read_header
from pedsup.messages import message
from pedsup.trust.assess import Bound, Policy, assess
from pedsup.trust.identity import ModelIdentity, header_digest, identify
from pedsup.trust.manifest import MMPROJ_KEY, Manifest, MmprojFacts, mmproj_path, projector_origin
from pedsup.trust.verdict import Trust

PATTERN: Final = "mmproj-*.gguf"
_EXPORT: Final = message(
    "export the model and its projector together: pedsup-export run --mmproj auto"
)


def projector_beside(model: Path, manifest: Manifest | None) -> Path | None:
    """The projector beside a model; None where there is none.

    Args:
        manifest: the model's. The file that it names comes first, whatever its name: the projector
            of an older version may be that of a newer one too.
    """
    own, named = mmproj_path(model), manifest.facts.mmproj if manifest is not None else None
    if named is not None and (found := named_projector(model, named)) is not None:
        return found
    return own if own.exists() else None


def named_projector(model: Path, named: MmprojFacts) -> Path | None:
    """The file beside a model that is the one named, by its size and header; None without one."""
    try:
        beside = sorted(model.parent.glob(PATTERN))
    except OSError:  # a folder that may not be listed
        beside = []
    return next((path for path in (mmproj_path(model), *beside) if _is_named(path, named)), None)


def _is_named(path: Path, named: MmprojFacts) -> bool:
    try:
        return (
            path.is_file()
            and path.stat().st_size == named.size
            and header_digest(read_header(path)) == named.header
        )
    except (OSError, PedsupError):
        return False


def assess_projector(
    header: GGUFHeader, model: ModelIdentity, trust: Trust, policy: Policy, *, strict: bool
) -> Trust:
    """Every check of a projector that reads no weights.

    Args:
        header: the projector's, checked.
        model: the model that it is used with, with `trust`, what is known of it.
        strict: refuse a projector that nothing ties to the model.

    Raises:
        MismatchError: it was made with another model.
        UntrustedError: it is not the file that the model's manifest names.
        UnsupportedError: nothing ties it to the model, and `strict`.
    """
    identity = identify(header)
    bound = _bound(header, identity.digest, model.manifest, trust)
    if bound is None and strict:
        raise UnsupportedError(
            "nothing says that this projector was made for this model",
            where=header.path,
            wanted="a projector that the model's manifest names (--strict)",
            remedy=_EXPORT,
        )
    # The projector has the model's own name too, which perhaps came signed before.
    found = assess(header, identity, trust.store, replace(policy, as_before=False), bound)
    if found.signed == "by-adapter":
        return replace(found, signed="by-model")
    return replace(found, unbound=bound is None)


def _bound(
    header: GGUFHeader, digest: str, manifest: Manifest | None, trust: Trust
) -> Bound | None:
    """What the model's manifest says of the projector; None where it names none."""
    key = header.get(MMPROJ_KEY)
    if manifest is not None and key is not None and key != projector_origin(manifest.core):
        raise MismatchError(
            "the projector was made with another model",
            where=header.path,
            wanted="the projector that was exported with this model",
            remedy=_EXPORT,
        )
    named = manifest.facts.mmproj if manifest is not None else None
    if named is None:
        return None
    if named.header != digest:
        raise UntrustedError(
            "this is not the projector that the model's manifest names",
            where=header.path,
            wanted=message("a file with the digest {digest}", digest=named.header[:12]),
            remedy="get the projector of this version of the model, or give --mmproj off",
        )
    return Bound(named.sha256, trust.key if trust.signed == "signed" else None)
