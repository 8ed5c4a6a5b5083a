"""Speculative decoding: what `--draft` means, and whether a draft model belongs to a model.

llama.cpp's own implementation in `llama-server` guesses the tokens and reads them in one pass. It
ends the process when the shapes of a drafter and its target do not fit together: that is decided
here, by what is in the files, before anything is loaded.
"""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import Final

from pedsup.engine.api import DraftConfig
from pedsup.errors import MismatchError, UsageError
from pedsup.files.paths import from_user
from pedsup.gguf_file import ArrayValue, GGUFHeader
from pedsup.gguf_file.cut_vocabulary import is_cut
from pedsup.gguf_file.rules import ASSISTANT
from pedsup.gguf_file.validate import validate_model_or_drafter
from pedsup.messages import Message, as_message, message

SUFFIX: Final = ".gguf"
MAX_PADDING: Final = 128
"""Tokens that one vocabulary may have more at its end: llama.cpp's own bound."""
TARGET: Final = "gemma4"


def draft_config(asked: str, n_max: int, model: GGUFHeader) -> DraftConfig:
    """What `--draft` and `--draft-max` mean for a model.

    Args:
        asked: 'off', 'lookup' or the path of a draft model.

    Raises:
        UsageError: it is something else, or the file does not exist.
        BadFileError, UnsupportedError: the file is not a model that can draft.
        MismatchError: the draft model does not belong to `model`.
    """
    if asked == "off":
        return DraftConfig()
    if asked == "lookup":
        return DraftConfig("lookup", n_max=n_max)
    path = from_user(asked)
    if path.suffix != SUFFIX or not path.is_file():
        raise UsageError(
            message("the option 'draft' is {value}", value=repr(asked)),
            wanted="off, lookup, or the file of a draft model (.gguf)",
            remedy="check the path; --draft lookup needs no model",
        )
    require_drafter(model, validate_model_or_drafter(path))
    return DraftConfig("model", model=path, n_max=n_max)


def draft_text(draft: DraftConfig) -> Message:
    """What drafts, in words: none, the option 'lookup', or the path of a model."""
    if draft.kind == "off":
        return message("none")
    return Message(draft.kind if draft.model is None else str(draft.model))


def require_drafter(model: GGUFHeader, draft: GGUFHeader) -> None:
    """Raise `MismatchError` when `draft` cannot draft for `model`."""
    if draft.architecture == ASSISTANT:
        _require_same_shape(model, draft)
    _require_same_vocabulary(model, draft)


def _require_same_vocabulary(model: GGUFHeader, draft: GGUFHeader) -> None:
    """The same text for the same token, up to padding at the end."""
    theirs, own = _tokens(model), _tokens(draft)
    if is_cut(model) and not is_cut(draft):
        raise MismatchError(
            "the model's vocabulary was cut, and the drafter's was not",
            where=draft.path,
            wanted="a drafter with the same tokens",
            remedy="export the drafter with --vocabulary MODEL.gguf, or give --draft lookup",
        )
    if not theirs or not own or abs(len(theirs) - len(own)) > MAX_PADDING:
        raise _mismatch(
            draft.path,
            message("it has {n} tokens", n=len(own or ())),
            message("the model's {n}", n=len(theirs or ())),
        )
    if model.get("tokenizer.ggml.model") != draft.get("tokenizer.ggml.model"):
        raise _mismatch(draft.path, "its tokenizer is of another kind", "the model's")
    pairs = zip_longest(theirs.raw_strings(), own.raw_strings())
    for number, (mine, its) in enumerate(pairs):
        if mine is None or its is None:
            return
        if mine != its:
            raise _mismatch(
                draft.path,
                message("its token {n} is {text}", n=number, text=f"{its!r:.40}"),
                f"{mine!r:.40}",
            )


def _require_same_shape(model: GGUFHeader, draft: GGUFHeader) -> None:
    """The drafter reads the target's keys, values and hidden states as they are."""
    if model.architecture != TARGET:
        found = message(
            "it is a drafter for Gemma 4, but the model has the architecture {name}",
            name=model.architecture,
        )
        raise _mismatch(draft.path, found, "a Gemma 4 model")
    own, its = model.get("%s.embedding_length"), draft.get("%s.embedding_length_out")
    if own != its:
        raise _mismatch(draft.path, message("a drafter for a hidden size of {n}", n=its), f"{own}")
    for key in ("key_length", "key_length_swa", "value_length", "value_length_swa"):
        own, its = model.get(f"%s.attention.{key}"), draft.get(f"%s.attention.{key}")
        if own != its:
            raise _mismatch(
                draft.path,
                message("its {name} is {n}", name=key, n=its),
                message("the model's {n}", n=own),
            )
    n_kv, heads = _last(model, "head_count_kv"), _last(draft, "head_count")
    if not n_kv or not heads or heads % n_kv:
        raise _mismatch(
            draft.path, message("{n} heads on the model's {m}", n=heads, m=n_kv), "a multiple"
        )


def _last(header: GGUFHeader, key: str) -> int:
    """A number for all layers, or the last layer's."""
    value = header.get(f"%s.attention.{key}")
    if isinstance(value, ArrayValue):
        value = value.values()[-1] if len(value) else 0
    return value if isinstance(value, int) else 0


def _tokens(header: GGUFHeader) -> ArrayValue | None:
    value = header.get("tokenizer.ggml.tokens")
    return value if isinstance(value, ArrayValue) else None


def _mismatch(path: Path, found: str, wanted: str) -> MismatchError:
    return MismatchError(
        message("the draft model does not belong to the model: {reason}", reason=as_message(found)),
        where=path,
        wanted=wanted,
        remedy="give the drafter of this model, or --draft lookup, which needs none",
    )
