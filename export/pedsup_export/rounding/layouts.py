"""Packed blocks of ggml's types as arrays of scales and levels, and back.

A *group* is what one 16-bit scale covers: a super-block of 256 weights in parts of 16 or 32 that
have a small whole-number scale (and minimum) each, or a block of 32 with a scale of its own. Every
type here stores

    weight = d * (scale[part] - scale_offset) * value(level) - dmin * minimum[part]

with `value(level) = level + lowest`, or a table of 16 values for the IQ4 types. Which bits make up
which number is said once, in `pedsup.patch.layouts`; the drawings are in the modules of `kernels`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from pedsup.gguf_file.ggml_types import BY_NAME
from pedsup.patch import layouts as bits
from pedsup_export.gguf.blocks import numbers, put_numbers
from pedsup_export.kernels.lanes.constants import IQ4_VALUES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pedsup_export.gguf.blocks import Bytes

SIGNED: Final = (-128, 127)
"""The range of numbers that are stored as int8; others are stored less their lowest."""


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
    part: int
    n_levels: int
    lowest: int
    """The value of level 0 (ignored with a table)."""
    scale_range: tuple[int, int] = (1, 1)
    """Least and largest scale, offset taken off; (1, 1) where there is only d."""
    minimum_range: tuple[int, int] = (0, 0)
    table: NDArray[np.float32] | None = None
    stored: tuple[int, ...] = ()
    """Axes of the levels as they are stored, where they are not in the order of the weights."""
    axes: tuple[int, ...] = ()
    """The order of those axes that is the weights'."""

    @property
    def size(self) -> int:
        """Bytes of a group."""
        return BY_NAME[self.name].type_size

    @property
    def group(self) -> int:
        """Weights of a group."""
        return BY_NAME[self.name].block_size

    @property
    def parts(self) -> int:
        return self.group // self.part

    @cached_property
    def _bits(self) -> bits.Layout:
        return bits.layout_of(BY_NAME[self.name])

    def unpack(self, raw: Bytes) -> Grid:
        """Groups of packed bytes, uint8 [n, size]."""
        n = len(raw)
        factors = [np.ascontiguousarray(raw[:, at]).view("<f2")[:, 0] for at in self._bits.floats]
        small = numbers(raw, self._bits.scales)
        scales, minima = small[:, : self.parts], small[:, self.parts :].astype(np.int16)
        levels = _turned(numbers(raw, self._bits.codes), self.stored, self.axes)
        return Grid(
            factors[0].astype(np.float16),
            factors[1].astype(np.float16) if factors[1:] else np.zeros(n, np.float16),
            _read(scales, self.scale_range) if small.size else np.ones((n, 1), np.int16),
            minima if minima.size else np.zeros((n, self.parts), np.int16),
            _read(levels, SIGNED) - np.int16(SIGNED[0])
            if self.n_levels == 256
            else levels.astype(np.int16),
        )

    def pack(self, grid: Grid) -> Bytes:
        """Packed bytes, uint8 [n, size]."""
        raw = np.zeros((len(grid.levels), self.size), np.uint8)
        for at, values in zip(self._bits.floats, (grid.d, grid.dmin), strict=False):
            raw[:, at] = np.ascontiguousarray(values.astype("<f2")).view(np.uint8).reshape(-1, 2)
        small = [_written(grid.scales, self.scale_range), grid.minima.astype(np.uint8)]
        put_numbers(raw, self._bits.scales, np.concatenate(small, axis=1))
        levels = grid.levels
        if self.n_levels == 256:
            levels = levels + np.int16(SIGNED[0])
        turned = tuple(self.stored[axis] for axis in self.axes)
        back = tuple(self.axes.index(axis) for axis in range(len(self.axes)))
        put_numbers(raw, self._bits.codes, _turned(levels.astype(np.uint8), turned, back))
        return raw


def _turned(levels: Bytes, shape: tuple[int, ...], axes: tuple[int, ...]) -> Bytes:
    """Levels [n, group] whose group has axes of this shape, with the axes in another order."""
    if not axes:
        return levels
    n = len(levels)
    return levels.reshape(n, *shape).transpose(0, *(a + 1 for a in axes)).reshape(n, -1)


def _read(stored: Bytes, span: tuple[int, int]) -> NDArray[np.int16]:
    if span == SIGNED:
        return np.ascontiguousarray(stored).view(np.int8).astype(np.int16)
    return stored.astype(np.int16) + np.int16(span[0])


def _written(values: NDArray[np.int16], span: tuple[int, int]) -> Bytes:
    return (values if span == SIGNED else values - np.int16(span[0])).astype(np.uint8)


_SIX_BITS: Final = (0, 63)
LAYOUTS: Final = {
    layout.name: layout
    for layout in (
        Layout("Q2_K", 16, 4, 0, (0, 15), (0, 15), stored=(4, 2, 32), axes=(1, 0, 2)),
        Layout("Q3_K", 16, 8, -4, (-32, 31)),
        Layout("Q4_K", 32, 16, 0, _SIX_BITS, _SIX_BITS, stored=(2, 4, 32), axes=(1, 0, 2)),
        Layout("Q5_K", 32, 32, 0, _SIX_BITS, _SIX_BITS),
        Layout("Q6_K", 16, 64, -32, SIGNED),
        Layout("Q4_0", 32, 16, -8),
        Layout("Q5_0", 32, 32, -16, stored=(8, 2, 2), axes=(1, 2, 0)),
        Layout("Q8_0", 32, 256, -128),
        Layout("IQ4_XS", 32, 16, 0, (-32, 31), table=IQ4_VALUES, stored=(2, 8, 16), axes=(1, 0, 2)),
        Layout("IQ4_NL", 32, 16, 0, table=IQ4_VALUES),
    )
}
"""Type name -> layout."""
