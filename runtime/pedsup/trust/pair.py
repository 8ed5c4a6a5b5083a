"""A model and the adapter beside it: what is known of both, and whether they belong together.

The manifest of an adapter names the files that it was made for, by the digest of their headers and
of all their bytes (`core.fits`). So a signed adapter vouches for its model too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pedsup.errors import MismatchError
from pedsup.gguf_file import GGUFHeader
from pedsup.gguf_file.lora import require_fits, validate_adapter
from pedsup.messages import message
from pedsup.texts.safe import label
from pedsup.trust.assess import Bound, Policy, assess
from pedsup.trust.identity import ModelIdentity, identify, paired
from pedsup.trust.store import load_store
from pedsup.trust.verdict import Trust


@dataclass(frozen=True)
class Checked:
    """Whose files these are, before their weights are read."""

    identity: ModelIdentity
    """Of the model, or of the pair."""
    trust: Trust
    adapter: GGUFHeader | None
    model: ModelIdentity
    """Of the model alone."""


def assess_pair(header: GGUFHeader, adapter: Path | None, policy: Policy) -> Checked:
    """Every check of a model, and of the adapter to be applied to it, that reads no weights.

    Raises:
        BadFileError, UnsupportedError: the adapter is not a file that llama.cpp applies.
        MismatchError: the adapter was made for another model.
        UntrustedError: as `pedsup.trust.assess.assess`, for either file.
    """
    store, own = load_store(), identify(header)
    if adapter is None:
        return Checked(own, assess(header, own, store, policy), None, own)
    its = validate_adapter(adapter)
    require_fits(its, header)
    identity = identify(its)
    trust = assess(its, identity, store, policy)
    bound = _bound(identity, own, trust)
    trust = replace(trust, unbound=bound is None)
    model = assess(header, own, store, policy, bound)
    return Checked(paired(own, identity, its), model.beside("adapter", trust), its, own)


def _bound(adapter: ModelIdentity, model: ModelIdentity, trust: Trust) -> Bound | None:
    """What the adapter says of this model; None where it has no manifest, or names no model."""
    named = adapter.manifest.facts.fits if adapter.manifest is not None else ()
    if not named:
        return None
    found = next((fit for fit in named if fit.header == model.digest), None)
    if found is None:
        raise MismatchError(
            message("the adapter was made for another model: {name}", name=label(named[0].name)),
            where=trust.path,
            wanted=message(
                "a model with the digest {digest}, not {found}",
                digest=named[0].header[:12],
                found=model.digest[:12],
            ),
            remedy="give the model that this adapter was made for, or make an adapter file for "
            "this one: pedsup-export adapter",
        )
    return Bound(found.sha256, trust.key if trust.signed == "signed" else None)
