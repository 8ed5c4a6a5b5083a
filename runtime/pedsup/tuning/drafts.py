"""Drafts at a start: those asked for must work, a measured draft model only where it still does."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pedsup.engine.api import DraftConfig, EngineConfig
from pedsup.engine.drafts.fit import require_drafter
from pedsup.engine.drafts.option import draft_config
from pedsup.errors import PedsupError
from pedsup.gguf_file import GGUFHeader
from pedsup.gguf_file.validate import validate_drafter
from pedsup.memory import Available, Host
from pedsup.memory.estimate import estimate
from pedsup.memory.fit import assess
from pedsup.tuning.apply import Applied
from pedsup.tuning.store import without_draft


@dataclass(frozen=True)
class Memory:
    """What there is to load into."""

    host: Host
    available: Available | None


def with_drafts(
    applied: Applied, header: GGUFHeader, config: EngineConfig, memory: Memory
) -> tuple[Applied, EngineConfig]:
    """The configuration with its drafts. A measured draft model that is none any more or does not
    fit beside the model is left out, and the lookup in the result says why.

    Raises:
        PedsupError: drafts that were asked for make no sense.
    """
    settings = applied.settings
    measured = applied.origins.get("draft") == "tuned"
    try:
        draft = draft_config(settings.draft, settings.draft_max)
        if draft.model is not None:
            require_drafter(header, validate_drafter(draft.model))
    except PedsupError as error:
        if not measured:
            raise
        return _dropped(applied, error.found), replace(config, draft=DraftConfig())
    config = replace(config, draft=draft)
    if draft.model is None or not measured:
        return applied, config
    if assess(estimate(header, config, memory.host), memory.available).verdict == "fits":
        return applied, config
    reason = "the draft model does not fit beside the model now"
    return _dropped(applied, reason), replace(config, draft=DraftConfig())


def _dropped(applied: Applied, reason: str) -> Applied:
    lookup = applied.lookup
    assert lookup.tuned is not None
    origins = {name: origin for name, origin in applied.origins.items() if name != "draft"}
    return Applied(
        replace(applied.settings, draft="auto"),
        origins,
        replace(lookup, tuned=without_draft(lookup.tuned), dropped=reason),
    )
