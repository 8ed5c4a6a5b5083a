"""Q8_0: blocks of 32 weights.

    | d f16 | levels 32 x int8 |  = 34            weight = d * level, level -127..127

A lane is a block for the search of the largest weight, and a weight for the levels. Source:
quantize_row_q8_0_ref in ggml-quants.c. llama.cpp ignores importances here.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from pedsup_export.kernels.lanes.half import put_half, to_half
from pedsup_export.kernels.lanes.jit import inline, kernel
from pedsup_export.kernels.lanes.layout import for_lanes
from pedsup_export.kernels.lanes.levels import ONE, ZERO, is_odd
from pedsup_export.kernels.lanes.vec import (
    LANES,
    absolute,
    any_lane,
    load,
    splat,
    store,
    store_bytes,
    truncate,
    where,
)

BLOCK: Final = 32
SIZE: Final = 34
BELOW_HALF: Final = np.float32(0.49999997)
"""The float before 0.5: adding 0.5 itself would round 0.49999997 up."""


@inline
def _round_away(value):
    """C's roundf: to the nearest integer, halves away from zero; magnitudes below 2**22."""
    zero = splat(ZERO)
    return truncate(value + where(value < zero, splat(-BELOW_HALF), splat(BELOW_HALF)))


@inline
def _find(columns, _importance, scales):
    """The scale of each lane's block; no lane is odd yet."""
    largest = splat(ZERO)
    for i in range(BLOCK):
        size = absolute(load(columns, LANES * i))
        largest = where(largest > size, largest, size)
    store(scales, 0, largest / splat(np.float32(127)))
    return largest > largest


@inline
def _pack(x, block, scales, lane, out):
    """Write one block; 1 if ggml must do it."""
    scale = scales[lane]
    inverse = ONE / scale if scale != ZERO else ZERO
    put_half(out, SIZE * block, to_half(scale))
    bad = splat(ZERO) > splat(ZERO)
    for i in range(0, BLOCK, LANES):
        value = load(x, BLOCK * block + i) * splat(inverse)
        bad |= is_odd(value)
        store_bytes(out, SIZE * block + 2 + i, _round_away(value))
    return np.uint8(any_lane(bad))


@kernel
def quantize_q8_0(x, importance, per_row, out, odd):
    """Q8_0; arguments as in `dispatch.Kernel`, importances unused."""
    scales = np.empty(LANES, np.float32)
    for_lanes((x, importance, per_row, False), BLOCK, _find, _pack, scales, (out, odd))
