"""The numbers in packed blocks of ggml's types, by the layouts that patches go by too."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from pedsup.patch.layouts import Field

Bytes = NDArray[np.uint8]
"""Blocks: shape (n_blocks, block_bytes)."""


def numbers(blocks: Bytes, fields: Sequence[Field]) -> Bytes:
    """Shape (n_blocks, numbers of all fields), in the order of the fields and their columns."""
    sizes = [len(field[0].columns) for field in fields]
    found = np.zeros((len(blocks), sum(sizes)), np.uint8)
    at = 0
    for field, size in zip(fields, sizes, strict=True):
        for part in field:
            mask = np.uint8((1 << part.bits) - 1)
            bits = blocks[:, _slice(part.columns)] >> np.uint8(part.shift) & mask
            found[:, at : at + size] |= bits << np.uint8(part.at)
        at += size
    return found


def put_numbers(blocks: Bytes, fields: Sequence[Field], values: Bytes) -> None:
    """Write what `numbers` reads into blocks whose bits are zero there."""
    at = 0
    for field in fields:
        own = values[:, at : at + len(field[0].columns)]
        for part in field:
            mask = np.uint8((1 << part.bits) - 1)
            blocks[:, _slice(part.columns)] |= (own >> np.uint8(part.at) & mask) << np.uint8(
                part.shift
            )
        at += own.shape[1]


@cache
def _slice(columns: tuple[int, ...]) -> slice:
    """Columns at equal distances as a slice, which numpy needs no copy for."""
    step = columns[1] - columns[0] if len(columns) > 1 else 1
    assert columns == tuple(range(columns[0], columns[-1] + 1, step)), "at equal distances"
    return slice(columns[0], columns[-1] + 1, step)
