"""The base before its weights: where it is, its configuration and tokenizer, what identifies it.

It is a folder here, in the hub's cache, or on the hub. That is asked before torch is imported.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pedsup.errors import BadFileError, HubError, UsageError
from pedsup.files.fsio import sha256_file
from pedsup.optional import require
from pedsup.progress import say
from pedsup_train.recipe.schema import Recipe

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

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


def load_config(recipe: Recipe) -> PretrainedConfig:
    """The base's config; a clear error when there is no such base or no connection.

    Raises:
        BadFileError: the folder is not a usable base.
        HubError: it is neither a local folder nor available from the hub.
    """
    config: PretrainedConfig = _from_base(recipe, "AutoConfig")
    return config


def load_tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase:
    """The base's tokenizer.

    Raises:
        BadFileError, HubError: as `load_config`.
    """
    tokenizer: PreTrainedTokenizerBase = _from_base(recipe, "AutoTokenizer")
    return tokenizer


def _from_base(recipe: Recipe, kind: Literal["AutoConfig", "AutoTokenizer"]) -> Any:
    transformers = require("transformers", extra="train")
    base = recipe.model.base
    try:
        return getattr(transformers, kind).from_pretrained(
            base, revision=recipe.model.revision or None
        )
    except (OSError, ValueError) as error:
        # A folder that is there was found wanting; anything else was looked for on the hub.
        fault = UsageError if not base else BadFileError if Path(base).is_dir() else HubError
        raise fault(
            f"the base could not be read: {_first_line(error)}",
            where=base or "model.base is empty",
            wanted="a Hugging Face folder, or a hub id with a connection",
            remedy=REMEDY,
        ) from error


def is_prequantized(config: PretrainedConfig) -> bool:
    """Whether the checkpoint itself is stored in 4 bit (as unsloth's `bnb-4bit` ones)."""
    return getattr(config, "quantization_config", None) is not None


def base_commit(config: PretrainedConfig, recipe: Recipe) -> str:
    """What identifies the base: the hub's commit, or 'local'."""
    commit = getattr(config, "_commit_hash", None)
    return str(commit) if commit and not Path(recipe.model.base).exists() else "local"


def base_digest(recipe: Recipe) -> str | None:
    """SHA-256 over names and digests of a local base's weights, configs and tokenizer.

    The same as `sha256sum *.jinja *.json *.safetensors | sha256sum` in the folder (C locale).
    """
    folder = Path(recipe.model.base)
    files = [
        p for kind in ("jinja", "json", "safetensors") for p in sorted(folder.glob(f"*.{kind}"))
    ]
    lines = [f"{sha256_file(path)}  {path.name}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest() if files else None
