"""The option `--draft`, from text to a `DraftConfig`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pedsup.engine.api import DraftConfig
from pedsup.errors import UsageError

SUFFIX: Final = ".gguf"


def draft_config(asked: str, n_max: int) -> DraftConfig:
    """What `--draft` and `--draft-max` mean.

    Args:
        asked: 'off', 'lookup' or the path of a draft model. 'auto' is what stands here when
            nobody gave it and `pedsup-run tune` has not measured it: off.

    Raises:
        UsageError: it is none of these, or there is no such file.
    """
    if asked in ("off", "auto"):
        return DraftConfig()
    if asked == "lookup":
        return DraftConfig("lookup", n_max=n_max)
    path = Path(asked).expanduser()
    if path.suffix != SUFFIX or not path.is_file():
        raise UsageError(
            f"the option 'draft' is {asked!r}",
            wanted="off, lookup, auto, or the file of a draft model (.gguf)",
            remedy="check the path; --draft lookup needs no model",
        )
    return DraftConfig("model", model=path, n_max=n_max)


def draft_text(draft: DraftConfig) -> str:
    """The option that means it; the inverse of `draft_config`."""
    return draft.kind if draft.model is None else str(draft.model)
