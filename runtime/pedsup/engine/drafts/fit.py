"""Whether a draft model belongs to a model: decided by what is in the files, before loading.

llama.cpp ends the process when the shapes of a drafter and its target do not fit together.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

from pedsup.errors import MismatchError
from pedsup.gguf_file import ArrayValue, GGUFHeader
from pedsup.gguf_file.cut_vocabulary import is_cut
from pedsup.gguf_file.rules import ASSISTANT

MAX_PADDING: Final = 128
"""Tokens that one vocabulary may have more at its end: llama.cpp's own bound."""
TARGET: Final = "gemma4"


def require_drafter(model: GGUFHeader, draft: GGUFHeader) -> None:
    """Raise `MismatchError` when `draft` cannot draft for `model`."""
    if draft.architecture == ASSISTANT:
        _require_same_shape(model, draft)
    _require_same_vocabulary(model, draft)


def _require_same_vocabulary(model: GGUFHeader, draft: GGUFHeader) -> None:
    """The same text for the same token, up to padding at the end."""
    n_model, n_draft = _length(model), _length(draft)
    if is_cut(model) and not is_cut(draft):
        raise MismatchError(
            "the model's vocabulary was cut, and the drafter's was not",
            where=draft.path,
            wanted="a drafter with the same tokens",
            remedy="export the drafter with --vocabulary MODEL.gguf, or give --draft lookup",
        )
    if not n_model or not n_draft or abs(n_model - n_draft) > MAX_PADDING:
        raise _mismatch(draft.path, f"it has {n_draft} tokens", f"the model's {n_model}")
    if model.get("tokenizer.ggml.model") != draft.get("tokenizer.ggml.model"):
        raise _mismatch(draft.path, "its tokenizer is of another kind", "the model's")
    pairs = zip_longest(_tokens(model), _tokens(draft))
    for number, (mine, its) in enumerate(pairs):
        if mine is None or its is None:
            return
        if mine != its:
            raise _mismatch(draft.path, f"its token {number} is {its!r:.40}", f"{mine!r:.40}")


def _require_same_shape(model: GGUFHeader, draft: GGUFHeader) -> None:
    """The drafter reads the target's keys, values and hidden states as they are."""
    if model.architecture != TARGET:
        found = f"a drafter for Gemma 4, and the model is of the architecture {model.architecture}"
        raise _mismatch(draft.path, found, "a Gemma 4 model")
    own, its = model.get("%s.embedding_length"), draft.get("%s.embedding_length_out")
    if own != its:
        raise _mismatch(draft.path, f"a drafter for a hidden size of {its}", f"{own}")
    for key in ("key_length", "key_length_swa", "value_length", "value_length_swa"):
        own, its = model.get(f"%s.attention.{key}"), draft.get(f"%s.attention.{key}")
        if own != its:
            raise _mismatch(draft.path, f"its {key} is {its}", f"the model's {own}")
    n_kv, heads = _last(model, "head_count_kv"), _last(draft, "head_count")
    if not n_kv or not heads or heads % n_kv:
        raise _mismatch(draft.path, f"{heads} heads on the model's {n_kv}", "a multiple")


def _last(header: GGUFHeader, key: str) -> int:
    """A number for all layers, or the last layer's."""
    value: Any = header.get(f"%s.attention.{key}")
    if isinstance(value, ArrayValue):
        value = value.values()[-1] if len(value) else 0
    return value if isinstance(value, int) else 0


def _length(header: GGUFHeader) -> int:
    value = header.get("tokenizer.ggml.tokens")
    return len(value) if isinstance(value, ArrayValue) else 0


def _tokens(header: GGUFHeader) -> Iterator[bytes]:
    value = header.get("tokenizer.ggml.tokens")
    assert isinstance(value, ArrayValue)
    return value.raw_strings()


def _mismatch(path: Path, found: str, wanted: str) -> MismatchError:
    return MismatchError(
        f"the draft model does not belong to the model: {found}",
        where=path,
        wanted=wanted,
        remedy="give the drafter of this model, or --draft lookup, which needs none",
    )
