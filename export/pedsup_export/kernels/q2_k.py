"""Q2_K: super-blocks of 256 weights in 16 blocks of 16.

    | scales 16 bytes | levels 64 bytes | d f16 | dmin f16 |  = 84

    weight = d * scale[block] * level - dmin * min[block]           level 0..3

    scales: byte b: the scale (low nibble) and the min (high nibble) of block b
    levels: for each half of 128 weights, byte i (0..31): two bits each of weights i, 32 + i,
      64 + i, 96 + i

A lane is a super-block. Source: quantize_row_q2_K_ref and quantize_row_q2_K_impl in
ggml-quants.c; the search without importances weighs by magnitude and sums absolute errors.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from pedsup_export.kernels.lanes.constants import QK_K, STEPS_Q2_K, STEPS_Q2_K_WEIGHTED
from pedsup_export.kernels.lanes.half import from_half, put_half, to_half
from pedsup_export.kernels.lanes.jit import inline, kernel
from pedsup_export.kernels.lanes.layout import for_lanes, sum_of_squares
from pedsup_export.kernels.lanes.levels import ONE, ZERO, final_levels
from pedsup_export.kernels.lanes.vec import (
    LANES,
    absolute,
    any_lane,
    load,
    splat,
    sqrt,
    store,
    store_bytes,
)
from pedsup_export.kernels.scales import scales_and_minima
from pedsup_export.kernels.search import search_scale_min

BLOCK: Final = 16
BLOCKS: Final = 16
SIZE: Final = 84
NMAX: Final = np.float32(3)
TOP_SCALE: Final = np.float32(15)


@inline
def _find_blocks(x, importance, weighted, scratch, found):
    """Scales, minima and importances of 16 blocks (`found`, 3 x 16 vectors); the odd lanes."""
    weights, levels = scratch[0], scratch[1]
    sigma2 = splat(ZERO)
    if weighted:
        sigma2 = sum_of_squares(x, QK_K) / splat(np.float32(QK_K))
    odd = sigma2 > sigma2
    for block in range(BLOCKS):
        at = BLOCK * block * LANES
        total = splat(ZERO)
        for i in range(BLOCK):
            xi = load(x, at + LANES * i)
            w = absolute(xi)
            if weighted:
                w = load(importance, at + LANES * i) * sqrt(sigma2 + xi * xi)
            store(weights, LANES * i, w)
            total += w
        steps = STEPS_Q2_K_WEIGHTED if weighted else STEPS_Q2_K
        scale, minimum, bad = search_scale_min(
            x, at, BLOCK, weights, levels, NMAX, steps, not weighted
        )
        store(found[0], LANES * block, scale)
        store(found[1], LANES * block, minimum)
        store(found[2], LANES * block, total)
        odd |= bad
    return odd


@inline
def _find(columns, importance, state):
    """Levels of the 16 scales and minima, d and dmin (vectors); the odd lanes."""
    levels, factors, found, scratch, weighted = state
    bad = _find_blocks(columns, importance, weighted, scratch, found)
    return bad | scales_and_minima(found, BLOCKS, TOP_SCALE, weighted, levels, factors)


@inline
def _pack(x, block, state, lane, out):
    """Write one super-block; 1 if ggml must do it."""
    levels, factors, _, _, _ = state
    at = SIZE * block
    half_d, half_min = to_half(factors[0, lane]), to_half(factors[1, lane])
    put_half(out, at + 80, half_d)
    put_half(out, at + 82, half_min)
    d, dmin = from_half(half_d), from_half(half_min)
    for b in range(BLOCKS):
        k = LANES * b + lane
        out[at + b] = np.uint8(levels[0, k]) | (np.uint8(levels[1, k]) << 4)
    zero = splat(ZERO)
    bad = zero > zero
    for part in range(2):
        for i in range(0, 32, LANES):
            both = zero
            factor = ONE
            for quarter in range(4):
                place = 128 * part + 32 * quarter + i
                k = place // BLOCK * LANES + lane
                level, flag = final_levels(
                    x, QK_K * block + place, d * levels[0, k], dmin * levels[1, k], ZERO, NMAX
                )
                bad |= flag
                both += level * splat(factor)
                factor *= np.float32(4)
            store_bytes(out, at + 16 + 32 * part + i, both)
    return np.uint8(any_lane(bad))


@inline
def _state(weighted):
    """Levels and factors (scales, minima), what is found of each block, scratch."""
    levels = np.empty((2, BLOCKS * LANES), np.float32)
    factors = np.empty((2, LANES), np.float32)
    found = np.empty((3, BLOCKS * LANES), np.float32)
    scratch = np.empty((2, BLOCK * LANES), np.float32)
    return levels, factors, found, scratch, weighted


@kernel
def quantize_q2_k(x, importance, per_row, out, odd):
    """Q2_K without importances; arguments as in `dispatch.Kernel`."""
    state = _state(False)
    for_lanes((x, importance, per_row, False), QK_K, _find, _pack, state, (out, odd))


@kernel
def quantize_q2_k_weighted(x, importance, per_row, out, odd):
    """Q2_K with importances."""
    state = _state(True)
    for_lanes((x, importance, per_row, True), QK_K, _find, _pack, state, (out, odd))
