"""Where the base is: a folder here, the hub's cache, or the hub. Asked before torch is imported."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from pedsup.errors import BadFileError, HubError, UsageError
from pedsup.optional import require
from pedsup.progress import say
from pedsup_train.recipe.schema import Recipe

REMEDY: Final = "give --base FOLDER, or make the default: pedsup-train default-base --out out/base"
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_TIMEOUT_S: Final = 10.0


def find_base(recipe: Recipe) -> None:
    """Fail at once where the base is neither here nor on a hub that answers.

    transformers asks the hub five times, with pauses, for anything that is not a folder.

    Raises:
        UsageError: the recipe names no base.
        BadFileError: it is a path, and there is no such folder.
        HubError: it is a hub id, not in the cache, and the hub does not answer or does not have it.
    """
    base = recipe.model.base
    if not base:
        raise UsageError("the recipe names no base", where="model.base is empty", remedy=REMEDY)
    if Path(base).is_dir():
        return
    if is_local(base):
        raise BadFileError(
            "the base is not here: there is no such folder",
            where=Path(base).absolute(),
            wanted="a Hugging Face folder, or a hub id such as google/gemma-4-E4B-it",
            remedy=REMEDY,
        )
    _ask_hub(base, recipe.model.revision or None)


def is_local(base: str) -> bool:
    """Whether a base is meant as a path: in form, or because its first part is a folder here."""
    if _HUB_ID.fullmatch(base) is None:
        return True
    return Path(base.partition("/")[0]).is_dir()


def _ask_hub(base: str, revision: str | None) -> None:
    """One question to the hub; without an answer, the cache is used if it has the base."""
    hub = require("huggingface_hub", extra="train")
    constants = require("huggingface_hub.constants", extra="train")
    if constants.HF_HUB_OFFLINE:
        return
    try:
        hub.HfApi().model_info(base, revision=revision, timeout=_TIMEOUT_S)
    except Exception as error:  # the hub's clients raise dozens of kinds
        cached = hub.try_to_load_from_cache(base, "config.json", revision=revision)
        if not isinstance(cached, str):
            raise HubError(
                f"the base could not be read from the hub: {_first_line(error)}",
                where=base,
                wanted="a connection, or the base as a folder",
                remedy=REMEDY,
            ) from error
        say(f"the hub does not answer: taking {base} from the cache")
        vars(constants)["HF_HUB_OFFLINE"] = True
        os.environ["HF_HUB_OFFLINE"] = "1"  # for processes that are started later


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
