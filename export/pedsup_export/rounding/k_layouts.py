"""Super-blocks of 256 weights: Q2_K to Q6_K. The layouts are those of ggml-common.h."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pedsup_export.rounding.grid import Grid, half, half_bytes, no_min, zeros

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pedsup_export.rounding.grid import Bytes

# --- two bits each of four runs of 32 weights: Q2_K, and the low bits of Q3_K ---


def from_two_bits(raw: Bytes) -> NDArray[np.int16]:
    """uint8 [n, 64] to int16 [n, 256]."""
    halves = raw.reshape(-1, 2, 1, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    return ((halves >> shifts) & 3).reshape(-1, 256).astype(np.int16)


def to_two_bits(levels: NDArray[np.int16]) -> Bytes:
    runs = levels.astype(np.uint8).reshape(-1, 2, 4, 32)
    packed = runs[:, :, 0] | (runs[:, :, 1] << 2) | (runs[:, :, 2] << 4) | (runs[:, :, 3] << 6)
    return packed.reshape(-1, 64).astype(np.uint8, copy=False)


def unpack_q2(raw: Bytes) -> Grid:
    return Grid(
        half(raw, 80),
        half(raw, 82),
        (raw[:, :16] & 15).astype(np.int16),
        (raw[:, :16] >> 4).astype(np.int16),
        from_two_bits(raw[:, 16:80]),
    )


def pack_q2(grid: Grid) -> Bytes:
    scales = grid.scales.astype(np.uint8) | (grid.minima.astype(np.uint8) << 4)
    return np.concatenate(
        [scales, to_two_bits(grid.levels), half_bytes(grid.d), half_bytes(grid.dmin)], axis=1
    )


def unpack_q3(raw: Bytes) -> Grid:
    bits = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    high = ((raw[:, None, :32] >> bits) & 1).reshape(-1, 256).astype(np.int16)
    low, top = raw[:, 96:104], raw[:, 104:108]
    scales = np.concatenate([low & 15, low >> 4], axis=1).astype(np.int16)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 4, 1)
    scales |= ((top[:, None, :] >> shifts) & 3).reshape(-1, 16).astype(np.int16) << 4
    d = half(raw, 108)
    levels = from_two_bits(raw[:, 32:96]) + 4 * high
    return Grid(d, no_min(d), scales - np.int16(32), zeros(len(raw), 16), levels.astype(np.int16))


def pack_q3(grid: Grid) -> Bytes:
    levels = grid.levels.astype(np.uint8)
    bits = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    high = ((levels >> 2).reshape(-1, 8, 32) << bits).sum(axis=1, dtype=np.uint8)
    scales = (grid.scales + 32).astype(np.uint8)
    low = (scales[:, :8] & 15) | ((scales[:, 8:] & 15) << 4)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 4, 1)
    top = ((scales >> 4).reshape(-1, 4, 4) << shifts).sum(axis=1, dtype=np.uint8)
    return np.concatenate(
        [high, to_two_bits((levels & 3).astype(np.int16)), low, top, half_bytes(grid.d)], axis=1
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


def nibbles(raw: Bytes) -> NDArray[np.int16]:
    """Each run of 32 bytes: low nibbles are a part, high nibbles the next."""
    runs = raw.reshape(len(raw), -1, 1, 32)
    return np.concatenate([runs & 15, runs >> 4], axis=2).reshape(len(raw), -1).astype(np.int16)


def to_nibbles(levels: NDArray[np.int16]) -> Bytes:
    pairs = levels.astype(np.uint8).reshape(len(levels), -1, 2, 32)
    packed = pairs[:, :, 0] | (pairs[:, :, 1] << 4)
    return packed.reshape(len(levels), -1).astype(np.uint8, copy=False)


def unpack_q4k(raw: Bytes) -> Grid:
    scales, minima = _six_bit(raw[:, 4:16])
    return Grid(half(raw, 0), half(raw, 2), scales, minima, nibbles(raw[:, 16:144]))


def pack_q4k(grid: Grid) -> Bytes:
    parts = [half_bytes(grid.d), half_bytes(grid.dmin), _six_bit_bytes(grid)]
    return np.concatenate([*parts, to_nibbles(grid.levels)], axis=1)


def unpack_q5k(raw: Bytes) -> Grid:
    scales, minima = _six_bit(raw[:, 4:16])
    bits = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    high = ((raw[:, None, 16:48] >> bits) & 1).reshape(-1, 256).astype(np.int16)
    levels = (nibbles(raw[:, 48:176]) + 16 * high).astype(np.int16)
    return Grid(half(raw, 0), half(raw, 2), scales, minima, levels)


def pack_q5k(grid: Grid) -> Bytes:
    levels = grid.levels.astype(np.uint8)
    bits = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    high = ((levels >> 4).reshape(-1, 8, 32) << bits).sum(axis=1, dtype=np.uint8)
    parts = [half_bytes(grid.d), half_bytes(grid.dmin), _six_bit_bytes(grid), high]
    return np.concatenate([*parts, to_nibbles((levels & 15).astype(np.int16))], axis=1)


# --- Q6_K ---


def unpack_q6(raw: Bytes) -> Grid:
    low = raw[:, :128].reshape(-1, 2, 2, 32)
    high = raw[:, 128:192].reshape(-1, 2, 1, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    four = np.concatenate([low & 15, low >> 4], axis=2)
    levels = (four | (((high >> shifts) & 3) << 4)).reshape(-1, 256).astype(np.int16)
    d = half(raw, 208)
    scales = np.ascontiguousarray(raw[:, 192:208]).view(np.int8).astype(np.int16)
    return Grid(d, no_min(d), scales, zeros(len(raw), 16), levels)


def pack_q6(grid: Grid) -> Bytes:
    runs = grid.levels.astype(np.uint8).reshape(-1, 2, 4, 32)
    low = (runs[:, :, :2] & 15) | ((runs[:, :, 2:] & 15) << 4)
    top = runs >> 4
    high = top[:, :, 0] | (top[:, :, 1] << 2) | (top[:, :, 2] << 4) | (top[:, :, 3] << 6)
    n = len(runs)
    scales = grid.scales.astype(np.int8).view(np.uint8)
    parts = [low.reshape(n, 128), high.reshape(n, 64), scales, half_bytes(grid.d)]
    return np.concatenate(parts, axis=1)
