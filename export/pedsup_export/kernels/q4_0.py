"""Q4_0: blocks of 32 weights.

    | d f16 | levels 16 bytes |  = 18             weight = d * (level - 8), level 0..15

    byte i holds weight i (low nibble) and weight 16 + i (high nibble)

A lane is a block for the search of the scale, and a weight for the levels. Source:
quantize_row_q4_0_ref and quantize_row_q4_0_impl in ggml-quants.c.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from pedsup_export.kernels.lanes.constants import STEPS_Q4_0
from pedsup_export.kernels.lanes.half import put_half, to_half
from pedsup_export.kernels.lanes.jit import inline, kernel
from pedsup_export.kernels.lanes.layout import for_lanes, lane_offsets, load_columns
from pedsup_export.kernels.lanes.levels import ONE, ZERO, clip, extreme_weight, is_odd, nearest
from pedsup_export.kernels.lanes.vec import (
    LANES,
    any_lane,
    load,
    splat,
    sqrt,
    store,
    store_bytes,
    store_mask,
    truncate,
    where,
)
from pedsup_export.kernels.search import search_scale

BLOCK: Final = 32
SIZE: Final = 18
NMAX: Final = np.float32(8)


@inline
def _plain_levels(x, at, inverse):
    """`MIN(15, (int8_t)(x * inverse + 8.5f))` of 16 weights, and the odd lanes."""
    value = load(x, at) * splat(inverse)
    level, top = truncate(value + splat(np.float32(8.5))), splat(np.float32(15))
    return where(level > top, top, level), is_odd(value)


@inline
def _find(columns, _importance, scales):
    """The scale of each lane's block; no lane is odd yet."""
    extreme, _ = extreme_weight(columns, 0, BLOCK)
    store(scales, 0, extreme / splat(-NMAX))
    return extreme > extreme


@inline
def _pack(x, block, scales, lane, out):
    """Write one block; 1 if ggml must do it."""
    scale = scales[lane]
    inverse = ONE / scale if scale != ZERO else ZERO
    put_half(out, SIZE * block, to_half(scale))
    low, bad_low = _plain_levels(x, BLOCK * block, inverse)
    high, bad_high = _plain_levels(x, BLOCK * block + LANES, inverse)
    store_bytes(out, SIZE * block + 2, low + high * splat(np.float32(16)))
    return np.uint8(any_lane(bad_low | bad_high))


@kernel
def quantize_q4_0(x, importance, per_row, out, odd):
    """Q4_0 without importances; arguments as in `dispatch.Kernel`."""
    scales = np.empty(LANES, np.float32)
    for_lanes((x, importance, per_row, False), BLOCK, _find, _pack, scales, (out, odd))


@kernel
def quantize_q4_0_weighted(x, importance, per_row, out, odd):
    """Q4_0 with importances. The search looks at the whole row's mean square."""
    count = x.size // BLOCK
    n_rows = count // per_row
    columns = np.empty(BLOCK * LANES, np.float32)
    column_importance = np.empty(BLOCK * LANES, np.float32)
    weights = np.empty(BLOCK * LANES, np.float32)
    d, inverse, sigma2 = (
        np.empty(LANES, np.float32),
        np.empty(LANES, np.float32),
        np.empty(LANES, np.float32),
    )
    rows = np.empty(LANES, np.int64)
    marks = np.empty(LANES, np.uint8)
    mean_squares = np.empty(n_rows + LANES, np.float32)
    _row_mean_squares(x, n_rows, per_row * BLOCK, rows, columns, mean_squares)
    for first in range(0, count, LANES):
        lane_offsets(first, count, count, BLOCK, rows)
        load_columns(x, rows, BLOCK, columns)
        for lane in range(LANES):
            sigma2[lane] = mean_squares[rows[lane] // (per_row * BLOCK)]
        lane_offsets(first, count, per_row, BLOCK, rows)
        load_columns(importance, rows, BLOCK, column_importance)
        for i in range(BLOCK):
            xi = load(columns, LANES * i)
            w = load(column_importance, LANES * i) * sqrt(load(sigma2, 0) + xi * xi)
            store(weights, LANES * i, w)
        scale, chosen, bad = search_scale(columns, 0, BLOCK, weights, 0, NMAX, STEPS_Q4_0)
        store(d, 0, scale)
        store(inverse, 0, chosen)
        store_mask(marks, 0, bad)
        for lane in range(min(LANES, count - first)):
            block = first + lane
            put_half(out, SIZE * block, to_half(d[lane]))
            low = _weighted_levels(x, BLOCK * block, inverse[lane])
            high = _weighted_levels(x, BLOCK * block + LANES, inverse[lane])
            store_bytes(out, SIZE * block + 2, low + high * splat(np.float32(16)))
            odd[block] = marks[lane]


@inline
def _weighted_levels(x, at, inverse):
    level = nearest(splat(inverse) * load(x, at))
    return clip(level, splat(-NMAX), splat(NMAX - ONE)) + splat(NMAX)


@inline
def _row_mean_squares(x, n_rows, n_per_row, rows, columns, result):
    """The mean square of each row, summed from left to right; here a lane is a row."""
    for first in range(0, n_rows, LANES):
        lane_offsets(first, n_rows, n_rows, n_per_row, rows)
        total = splat(ZERO)
        for at in range(0, n_per_row, LANES):
            for lane in range(LANES):
                rows[lane] += LANES if at else 0
            load_columns(x, rows, LANES, columns)
            for i in range(LANES):
                xi = load(columns, LANES * i)
                total += xi * xi
        store(result, first, total / splat(np.float32(n_per_row)))
