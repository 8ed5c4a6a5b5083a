"""Whether a model will see: which projector it gets, and what that is tied to and costs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from pedsup.engine.api import EngineConfig
from pedsup.engine.limits import cannot_see
from pedsup.engine.llama_cpp.mtmd import without_mtmd
from pedsup.errors import ResourceError, UnsupportedError
from pedsup.files.paths import from_user
from pedsup.gguf_file import GGUFHeader
from pedsup.gguf_file.projector import Projector, matching_projector
from pedsup.gguf_file.projector_fields import KNOWN
from pedsup.messages import Message, message
from pedsup.settings.schema import Settings
from pedsup.texts.safe import label
from pedsup.trust.assess import Policy
from pedsup.trust.identity import ModelIdentity
from pedsup.trust.projector import assess_projector, projector_beside
from pedsup.trust.verdict import Trust

OFF: Final = "off"
NO_ROOM: Final = message("there is no memory for its projector beside this context")


@dataclass(frozen=True)
class Sight:
    """A projector that was found for a model, and checked."""

    projector: Projector
    trust: Trust
    asked: bool
    """Whether it was asked for, or lay beside the model."""


def find_sight(
    header: GGUFHeader, identity: ModelIdentity, trust: Trust, settings: Settings, *, seeing: bool
) -> Sight | None:
    """The projector of `--mmproj`, or the one beside the model; None where there is none.

    Args:
        seeing: a picture was given.

    Raises:
        BadFileError, UnsupportedError, MismatchError, UntrustedError: it is not one that may be
            used with this model.
    """
    if settings.mmproj == OFF:
        return None
    path = (
        from_user(settings.mmproj)
        if settings.mmproj
        else projector_beside(header.path, identity.manifest)
    )
    if path is None:
        return None
    projector = matching_projector(path, header)
    if settings.strict and not projector.known:
        raise UnsupportedError(
            message("a projector of the kind '{kind}'", kind=label(projector.kind)),
            where=path,
            wanted=message("one of: {names}", names=", ".join(KNOWN)),
            remedy="leave --strict out if you trust the file",
        )
    policy = Policy(require_signature=settings.require_signature, verify=settings.verify)
    its = assess_projector(projector.header, identity, trust, policy, strict=settings.strict)
    return Sight(projector, its, seeing or settings.mmproj is not None)


def with_sight(config: EngineConfig, sight: Sight | None, settings: Settings) -> EngineConfig:
    """The configuration with a projector, and with steps as large as its pictures need."""
    if sight is None:
        return config
    # llama.cpp asserts that a step holds a picture whose tokens all see each other: Gemma 3's, and
    # those of Gemma 4 but for E2B and E4B; of these too in versions of spring 2026.
    known = sight.projector.known
    least = sight.projector.most_tokens(settings.picture_tokens) if known else 1
    return replace(
        config,
        projector=sight.projector.header.path,
        picture_tokens=settings.picture_tokens,
        n_batch=max(config.n_batch, least),
        n_ubatch=max(config.n_ubatch, least),
    )


def require_sight(blind: Message | None, config: EngineConfig) -> None:
    """Refuse a picture that the planned model cannot see.

    Raises:
        UnsupportedError: it has no projector.
        ResourceError: it has one, and no room for it.
        MissingDependencyError: this build of llama.cpp cannot see.
    """
    if config.projector is not None:
        if blind is not None:
            raise without_mtmd()
        return
    if blind is None:
        raise cannot_see()
    raise ResourceError(blind, remedy="give a smaller --ctx, or close other programs")
