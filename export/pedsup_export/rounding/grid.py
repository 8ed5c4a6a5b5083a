"""Packed blocks of ggml's types as arrays of scales and levels, and back.

A *group* is what one 16-bit scale covers: a super-block of 256 weights in parts of 16 or 32 that
have a small whole-number scale (and minimum) each, or a block of 32 with a scale of its own. Every
type here stores

    weight = d * (scale[part] - scale_offset) * value(level) - dmin * minimum[part]

with `value(level) = level + lowest`, or a table of 16 values for the IQ4 types. The layouts
are those of ggml-common.h; the drawings are in the modules of `kernels`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]


@dataclass
class Grid:
    """The scales and levels of groups; n groups of p parts of w weights.

    d and dmin are float16 [n]; scales and minima int16 [n, p], scales with their offset taken off;
    levels int16 [n, p * w], from 0 up.
    """

    d: NDArray[np.float16]
    dmin: NDArray[np.float16]
    scales: NDArray[np.int16]
    minima: NDArray[np.int16]
    levels: NDArray[np.int16]


@dataclass(frozen=True)
class Layout:
    """How one type stores a group."""

    name: str
    size: int
    """Bytes of a group."""
    group: int
    part: int
    n_levels: int
    lowest: int
    """The value of level 0 (ignored with a table)."""
    scale_range: tuple[int, int]
    """Least and largest scale, offset taken off; (1, 1) where there is only d."""
    minimum_range: tuple[int, int]
    unpack: Callable[[Bytes], Grid]
    pack: Callable[[Grid], Bytes]
    table: NDArray[np.float32] | None = None

    @property
    def parts(self) -> int:
        return self.group // self.part


def half(raw: Bytes, at: int) -> NDArray[np.float16]:
    return np.ascontiguousarray(raw[:, at : at + 2]).view("<f2")[:, 0].astype(np.float16)


def half_bytes(values: NDArray[np.float16]) -> Bytes:
    return np.ascontiguousarray(values.astype("<f2")).view(np.uint8).reshape(-1, 2)


def zeros(n: int, parts: int = 0) -> NDArray[np.int16]:
    return np.zeros((n, parts), np.int16)


def ones(n: int) -> NDArray[np.int16]:
    return np.ones((n, 1), np.int16)


def no_min(d: NDArray[np.float16]) -> NDArray[np.float16]:
    return np.zeros_like(d)


def values_of(layout: Layout, grid: Grid) -> NDArray[np.float32]:
    """The weights of groups, float32 [n, group], in ggml's order of operations up to rounding."""
    n = len(grid.levels)
    if layout.table is None:
        level = grid.levels.astype(np.float32) + np.float32(layout.lowest)
    else:
        level = layout.table[grid.levels]
    level = level.reshape(n, layout.parts, layout.part)
    scale = grid.d.astype(np.float32)[:, None] * grid.scales.astype(np.float32)
    minimum = grid.dmin.astype(np.float32)[:, None] * grid.minima.astype(np.float32)
    return (scale[:, :, None] * level - minimum[:, :, None]).reshape(n, layout.group)
