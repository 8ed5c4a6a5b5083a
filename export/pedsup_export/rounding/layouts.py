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
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]

IQ4_VALUES: Final = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)
"""`kvalues_iq4nl` of ggml-common.h."""


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


def _half(raw: Bytes, at: int) -> NDArray[np.float16]:
    return np.ascontiguousarray(raw[:, at : at + 2]).view("<f2")[:, 0].astype(np.float16)


def _half_bytes(values: NDArray[np.float16]) -> Bytes:
    return np.ascontiguousarray(values.astype("<f2")).view(np.uint8).reshape(-1, 2)


def _zeros(n: int, parts: int = 0) -> NDArray[np.int16]:
    return np.zeros((n, parts), np.int16)


def _ones(n: int) -> NDArray[np.int16]:
    return np.ones((n, 1), np.int16)


def _no_min(d: NDArray[np.float16]) -> NDArray[np.float16]:
    return np.zeros_like(d)


# --- two bits each of four runs of 32 weights: Q2_K, and the low bits of Q3_K ---


def _from_two_bits(raw: Bytes) -> NDArray[np.int16]:
    """uint8 [n, 64] to int16 [n, 256]."""
    halves = raw.reshape(-1, 2, 1, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    return ((halves >> shifts) & 3).reshape(-1, 256).astype(np.int16)


def _to_two_bits(levels: NDArray[np.int16]) -> Bytes:
    runs = levels.astype(np.uint8).reshape(-1, 2, 4, 32)
    packed = runs[:, :, 0] | (runs[:, :, 1] << 2) | (runs[:, :, 2] << 4) | (runs[:, :, 3] << 6)
    return packed.reshape(-1, 64).astype(np.uint8, copy=False)


def _unpack_q2(raw: Bytes) -> Grid:
    return Grid(
        _half(raw, 80),
        _half(raw, 82),
        (raw[:, :16] & 15).astype(np.int16),
        (raw[:, :16] >> 4).astype(np.int16),
        _from_two_bits(raw[:, 16:80]),
    )


def _pack_q2(grid: Grid) -> Bytes:
    scales = grid.scales.astype(np.uint8) | (grid.minima.astype(np.uint8) << 4)
    return np.concatenate(
        [scales, _to_two_bits(grid.levels), _half_bytes(grid.d), _half_bytes(grid.dmin)], axis=1
    )


def _unpack_q3(raw: Bytes) -> Grid:
    bits = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    high = ((raw[:, None, :32] >> bits) & 1).reshape(-1, 256).astype(np.int16)
    low, top = raw[:, 96:104], raw[:, 104:108]
    scales = np.concatenate([low & 15, low >> 4], axis=1).astype(np.int16)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 4, 1)
    scales |= ((top[:, None, :] >> shifts) & 3).reshape(-1, 16).astype(np.int16) << 4
    d = _half(raw, 108)
    levels = _from_two_bits(raw[:, 32:96]) + 4 * high
    return Grid(d, _no_min(d), scales - np.int16(32), _zeros(len(raw), 16), levels.astype(np.int16))


def _pack_q3(grid: Grid) -> Bytes:
    levels = grid.levels.astype(np.uint8)
    bits = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    high = ((levels >> 2).reshape(-1, 8, 32) << bits).sum(axis=1, dtype=np.uint8)
    scales = (grid.scales + 32).astype(np.uint8)
    low = (scales[:, :8] & 15) | ((scales[:, 8:] & 15) << 4)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 4, 1)
    top = ((scales >> 4).reshape(-1, 4, 4) << shifts).sum(axis=1, dtype=np.uint8)
    return np.concatenate(
        [high, _to_two_bits((levels & 3).astype(np.int16)), low, top, _half_bytes(grid.d)], axis=1
    )


# --- Q4_K and Q5_K ---


def _six_bit(raw: Bytes) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """The 12 bytes of 8 scales and 8 minima."""
    a, b, c = raw[:, 0:4], raw[:, 4:8], raw[:, 8:12]
    scales = np.concatenate([a & 63, (c & 15) | ((a >> 6) << 4)], axis=1)
    minima = np.concatenate([b & 63, (c >> 4) | ((b >> 6) << 4)], axis=1)
    return scales.astype(np.int16), minima.astype(np.int16)


def _six_bit_bytes(grid: Grid) -> Bytes:
    s, m = grid.scales.astype(np.uint8), grid.minima.astype(np.uint8)
    return np.concatenate(
        [
            s[:, :4] | ((s[:, 4:] >> 4) << 6),
            m[:, :4] | ((m[:, 4:] >> 4) << 6),
            (s[:, 4:] & 15) | ((m[:, 4:] & 15) << 4),
        ],
        axis=1,
    )


def _nibbles(raw: Bytes) -> NDArray[np.int16]:
    """Each run of 32 bytes: low nibbles are a part, high nibbles the next."""
    runs = raw.reshape(len(raw), -1, 1, 32)
    return np.concatenate([runs & 15, runs >> 4], axis=2).reshape(len(raw), -1).astype(np.int16)


def _to_nibbles(levels: NDArray[np.int16]) -> Bytes:
    pairs = levels.astype(np.uint8).reshape(len(levels), -1, 2, 32)
    packed = pairs[:, :, 0] | (pairs[:, :, 1] << 4)
    return packed.reshape(len(levels), -1).astype(np.uint8, copy=False)


def _unpack_q4k(raw: Bytes) -> Grid:
    scales, minima = _six_bit(raw[:, 4:16])
    return Grid(_half(raw, 0), _half(raw, 2), scales, minima, _nibbles(raw[:, 16:144]))


def _pack_q4k(grid: Grid) -> Bytes:
    parts = [_half_bytes(grid.d), _half_bytes(grid.dmin), _six_bit_bytes(grid)]
    return np.concatenate([*parts, _to_nibbles(grid.levels)], axis=1)


def _unpack_q5k(raw: Bytes) -> Grid:
    scales, minima = _six_bit(raw[:, 4:16])
    bits = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    high = ((raw[:, None, 16:48] >> bits) & 1).reshape(-1, 256).astype(np.int16)
    levels = (_nibbles(raw[:, 48:176]) + 16 * high).astype(np.int16)
    return Grid(_half(raw, 0), _half(raw, 2), scales, minima, levels)


def _pack_q5k(grid: Grid) -> Bytes:
    levels = grid.levels.astype(np.uint8)
    bits = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    high = ((levels >> 4).reshape(-1, 8, 32) << bits).sum(axis=1, dtype=np.uint8)
    parts = [_half_bytes(grid.d), _half_bytes(grid.dmin), _six_bit_bytes(grid), high]
    return np.concatenate([*parts, _to_nibbles((levels & 15).astype(np.int16))], axis=1)


# --- Q6_K ---


def _unpack_q6(raw: Bytes) -> Grid:
    low = raw[:, :128].reshape(-1, 2, 2, 32)
    high = raw[:, 128:192].reshape(-1, 2, 1, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    four = np.concatenate([low & 15, low >> 4], axis=2)
    levels = (four | (((high >> shifts) & 3) << 4)).reshape(-1, 256).astype(np.int16)
    d = _half(raw, 208)
    scales = np.ascontiguousarray(raw[:, 192:208]).view(np.int8).astype(np.int16)
    return Grid(d, _no_min(d), scales, _zeros(len(raw), 16), levels)


def _pack_q6(grid: Grid) -> Bytes:
    runs = grid.levels.astype(np.uint8).reshape(-1, 2, 4, 32)
    low = (runs[:, :, :2] & 15) | ((runs[:, :, 2:] & 15) << 4)
    top = runs >> 4
    high = top[:, :, 0] | (top[:, :, 1] << 2) | (top[:, :, 2] << 4) | (top[:, :, 3] << 6)
    n = len(runs)
    scales = grid.scales.astype(np.int8).view(np.uint8)
    parts = [low.reshape(n, 128), high.reshape(n, 64), scales, _half_bytes(grid.d)]
    return np.concatenate(parts, axis=1)


# --- blocks of 32 ---


def _halves(raw: Bytes) -> NDArray[np.int16]:
    """Sixteen bytes: low nibbles are the first 16 weights, high nibbles the last 16."""
    return np.concatenate([raw & 15, raw >> 4], axis=1).astype(np.int16)


def _to_halves(levels: NDArray[np.int16]) -> Bytes:
    values = levels.astype(np.uint8)
    return (values[:, :16] | (values[:, 16:] << 4)).astype(np.uint8, copy=False)


def _unpack_q4_0(raw: Bytes) -> Grid:
    d = _half(raw, 0)
    return Grid(d, _no_min(d), _ones(len(raw)), _zeros(len(raw), 1), _halves(raw[:, 2:18]))


def _pack_nibble_block(grid: Grid) -> Bytes:
    return np.concatenate([_half_bytes(grid.d), _to_halves(grid.levels)], axis=1)


def _unpack_q5_0(raw: Bytes) -> Grid:
    d = _half(raw, 0)
    bits = np.unpackbits(np.ascontiguousarray(raw[:, 2:6]), axis=1, bitorder="little")
    levels = (_halves(raw[:, 6:22]) + 16 * bits.astype(np.int16)).astype(np.int16)
    return Grid(d, _no_min(d), _ones(len(raw)), _zeros(len(raw), 1), levels)


def _pack_q5_0(grid: Grid) -> Bytes:
    high = np.packbits((grid.levels >> 4).astype(np.uint8), axis=1, bitorder="little")
    low = _to_halves((grid.levels & 15).astype(np.int16))
    return np.concatenate([_half_bytes(grid.d), high, low], axis=1)


def _unpack_q8_0(raw: Bytes) -> Grid:
    d = _half(raw, 0)
    levels = np.ascontiguousarray(raw[:, 2:34]).view(np.int8).astype(np.int16) + np.int16(128)
    return Grid(d, _no_min(d), _ones(len(raw)), _zeros(len(raw), 1), levels)


def _pack_q8_0(grid: Grid) -> Bytes:
    values = (grid.levels - 128).astype(np.int8).view(np.uint8)
    return np.concatenate([_half_bytes(grid.d), values], axis=1)


def _unpack_iq4_xs(raw: Bytes) -> Grid:
    d = _half(raw, 0)
    high = np.ascontiguousarray(raw[:, 2:4]).view("<u2").astype(np.int32)
    low = raw[:, 4:8]
    scales = np.stack([low & 15, low >> 4], axis=2).reshape(-1, 8).astype(np.int32)
    scales |= ((high >> (2 * np.arange(8, dtype=np.int32))) & 3) << 4
    runs = raw[:, 8:136].reshape(-1, 8, 16)
    levels = np.concatenate([runs & 15, runs >> 4], axis=2).reshape(-1, 256).astype(np.int16)
    return Grid(d, _no_min(d), (scales - 32).astype(np.int16), _zeros(len(raw), 8), levels)


def _pack_iq4_xs(grid: Grid) -> Bytes:
    scales = (grid.scales.astype(np.int32) + 32).astype(np.uint32)
    high = ((scales >> 4) << (2 * np.arange(8, dtype=np.uint32))).sum(axis=1).astype("<u2")
    low = ((scales[:, 0::2] & 15) | ((scales[:, 1::2] & 15) << 4)).astype(np.uint8)
    runs = grid.levels.astype(np.uint8).reshape(-1, 8, 32)
    packed = (runs[:, :, :16] | (runs[:, :, 16:] << 4)).reshape(-1, 128)
    return np.concatenate(
        [
            _half_bytes(grid.d),
            np.ascontiguousarray(high).view(np.uint8).reshape(-1, 2),
            low,
            packed,
        ],
        axis=1,
    )


_ALONE: Final = (1, 1)
_NONE: Final = (0, 0)

LAYOUTS: Final = {
    layout.name: layout
    for layout in (
        Layout("Q2_K", 84, 256, 16, 4, 0, (0, 15), (0, 15), _unpack_q2, _pack_q2),
        Layout("Q3_K", 110, 256, 16, 8, -4, (-32, 31), _NONE, _unpack_q3, _pack_q3),
        Layout("Q4_K", 144, 256, 32, 16, 0, (0, 63), (0, 63), _unpack_q4k, _pack_q4k),
        Layout("Q5_K", 176, 256, 32, 32, 0, (0, 63), (0, 63), _unpack_q5k, _pack_q5k),
        Layout("Q6_K", 210, 256, 16, 64, -32, (-128, 127), _NONE, _unpack_q6, _pack_q6),
        Layout("Q4_0", 18, 32, 32, 16, -8, _ALONE, _NONE, _unpack_q4_0, _pack_nibble_block),
        Layout("Q5_0", 22, 32, 32, 32, -16, _ALONE, _NONE, _unpack_q5_0, _pack_q5_0),
        Layout("Q8_0", 34, 32, 32, 256, -128, _ALONE, _NONE, _unpack_q8_0, _pack_q8_0),
        Layout("IQ4_XS", 136, 256, 32, 16, 0, (-32, 31), _NONE, _unpack_iq4_xs, _pack_iq4_xs,
               IQ4_VALUES),
        Layout("IQ4_NL", 18, 32, 32, 16, 0, _ALONE, _NONE, _unpack_q4_0, _pack_nibble_block,
               IQ4_VALUES),
    )
}  # fmt: skip
"""Type name -> layout."""


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
