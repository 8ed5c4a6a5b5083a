"""Blocks of 32 weights, and IQ4_XS: the layouts are those of ggml-common.h."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pedsup_export.rounding.grid import Grid, half, half_bytes, no_min, ones, zeros

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pedsup_export.rounding.grid import Bytes

IQ4_VALUES: Final = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)
"""`kvalues_iq4nl` of ggml-common.h."""


def _halves(raw: Bytes) -> NDArray[np.int16]:
    """Sixteen bytes: low nibbles are the first 16 weights, high nibbles the last 16."""
    return np.concatenate([raw & 15, raw >> 4], axis=1).astype(np.int16)


def _to_halves(levels: NDArray[np.int16]) -> Bytes:
    values = levels.astype(np.uint8)
    return (values[:, :16] | (values[:, 16:] << 4)).astype(np.uint8, copy=False)


def unpack_q4_0(raw: Bytes) -> Grid:
    d = half(raw, 0)
    return Grid(d, no_min(d), ones(len(raw)), zeros(len(raw), 1), _halves(raw[:, 2:18]))


def pack_nibble_block(grid: Grid) -> Bytes:
    return np.concatenate([half_bytes(grid.d), _to_halves(grid.levels)], axis=1)


def unpack_q5_0(raw: Bytes) -> Grid:
    d = half(raw, 0)
    bits = np.unpackbits(np.ascontiguousarray(raw[:, 2:6]), axis=1, bitorder="little")
    levels = (_halves(raw[:, 6:22]) + 16 * bits.astype(np.int16)).astype(np.int16)
    return Grid(d, no_min(d), ones(len(raw)), zeros(len(raw), 1), levels)


def pack_q5_0(grid: Grid) -> Bytes:
    high = np.packbits((grid.levels >> 4).astype(np.uint8), axis=1, bitorder="little")
    low = _to_halves((grid.levels & 15).astype(np.int16))
    return np.concatenate([half_bytes(grid.d), high, low], axis=1)


def unpack_q8_0(raw: Bytes) -> Grid:
    d = half(raw, 0)
    levels = np.ascontiguousarray(raw[:, 2:34]).view(np.int8).astype(np.int16) + np.int16(128)
    return Grid(d, no_min(d), ones(len(raw)), zeros(len(raw), 1), levels)


def pack_q8_0(grid: Grid) -> Bytes:
    values = (grid.levels - 128).astype(np.int8).view(np.uint8)
    return np.concatenate([half_bytes(grid.d), values], axis=1)


def unpack_iq4_xs(raw: Bytes) -> Grid:
    d = half(raw, 0)
    high = np.ascontiguousarray(raw[:, 2:4]).view("<u2").astype(np.int32)
    low = raw[:, 4:8]
    scales = np.stack([low & 15, low >> 4], axis=2).reshape(-1, 8).astype(np.int32)
    scales |= ((high >> (2 * np.arange(8, dtype=np.int32))) & 3) << 4
    runs = raw[:, 8:136].reshape(-1, 8, 16)
    levels = np.concatenate([runs & 15, runs >> 4], axis=2).reshape(-1, 256).astype(np.int16)
    return Grid(d, no_min(d), (scales - 32).astype(np.int16), zeros(len(raw), 8), levels)


def pack_iq4_xs(grid: Grid) -> Bytes:
    scales = (grid.scales.astype(np.int32) + 32).astype(np.uint32)
    high = ((scales >> 4) << (2 * np.arange(8, dtype=np.uint32))).sum(axis=1).astype("<u2")
    low = ((scales[:, 0::2] & 15) | ((scales[:, 1::2] & 15) << 4)).astype(np.uint8)
    runs = grid.levels.astype(np.uint8).reshape(-1, 8, 32)
    packed = (runs[:, :, :16] | (runs[:, :, 16:] << 4)).reshape(-1, 128)
    return np.concatenate(
        [
            half_bytes(grid.d),
            np.ascontiguousarray(high).view(np.uint8).reshape(-1, 2),
            low,
            packed,
        ],
        axis=1,
    )
