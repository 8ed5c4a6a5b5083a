"""Marks a file whose vocabulary was cut: for each of its tokens the id in the full model."""

from __future__ import annotations

from array import array
from itertools import pairwise
from typing import Final

from pedsup.gguf_file.header import GGUFHeader
from pedsup.gguf_file.rules import bad_field
from pedsup.gguf_file.values import ArrayValue, ValueType
from pedsup.messages import message

BASE_IDS: Final = "pedsup.vocabulary.base_ids"
"""INT32 array, one id for each token, ascending."""
BASE_SIZE: Final = "pedsup.vocabulary.base_size"
"""UINT32: tokens of the full vocabulary."""
_TOKENS: Final = "tokenizer.ggml.tokens"


def is_cut(header: GGUFHeader) -> bool:
    """Whether the file says that its vocabulary was cut."""
    return BASE_IDS in header.metadata


def base_ids(header: GGUFHeader) -> array[int] | None:
    """Each token's id in the full model; None for a file with a full vocabulary.

    Raises:
        BadFileError: the array is of another type or length, or does not ascend.
    """
    if not is_cut(header):
        return None
    value, tokens = header.get(BASE_IDS), header.get(_TOKENS)
    if not isinstance(value, ArrayValue) or value.element is not ValueType.INT32:
        raise bad_field(header, BASE_IDS, "is not an array of INT32", "one number for each token")
    n_tokens = len(tokens) if isinstance(tokens, ArrayValue) else 0
    if len(value) != n_tokens:
        raise bad_field(
            header,
            BASE_IDS,
            message("has {n} values", n=len(value)),
            message("{n}, one for each token", n=n_tokens),
        )
    ids = array("i", value.values())
    size = header.get(BASE_SIZE)
    if not isinstance(size, int) or not ids or ids[0] < 0 or ids[-1] >= size:
        raise bad_field(
            header, BASE_IDS, "has an id out of range", message("ids below '{key}'", key=BASE_SIZE)
        )
    if any(a >= b for a, b in pairwise(ids)):
        raise bad_field(
            header, BASE_IDS, "is not in ascending order", "each id of the full model at most once"
        )
    return ids
