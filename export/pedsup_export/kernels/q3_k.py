"""Q3_K: super-blocks of 256 weights in 16 blocks of 16.

    | high bits 32 bytes | low 2 bits 64 bytes | scales 12 bytes | d f16 |  = 110

    weight = d * (scale[block] - 32) * (level - 4)                  level 0..7, scale 0..63

    high bits: byte i, bit b: the third bit of weight 32 * b + i
    low bits: for each half of 128 weights, byte i (0..31): two bits each of weights i, 32 + i,
      64 + i, 96 + i
    scales: byte b (0..7): low four bits of scales b (low nibble) and 8 + b (high nibble);
      byte 8 + b (0..3): the high two bits of scales b, 4 + b, 8 + b, 12 + b

A lane is a super-block. Source: quantize_row_q3_K_ref and quantize_row_q3_K_impl in
ggml-quants.c.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from pedsup_export.kernels.lanes.constants import QK_K, STEPS_Q3_K, STEPS_Q3_K_SCALES
from pedsup_export.kernels.lanes.half import from_half, put_half, to_half
from pedsup_export.kernels.lanes.jit import inline, kernel
from pedsup_export.kernels.lanes.layout import for_lanes, sum_of_squares
from pedsup_export.kernels.lanes.levels import ONE, ZERO, clip, final_levels, is_odd, nearest
from pedsup_export.kernels.lanes.vec import (
    LANES,
    absolute,
    any_lane,
    load,
    splat,
    sqrt,
    store,
    store_bytes,
    where,
)
from pedsup_export.kernels.search import search_scale, search_scale_q3

BLOCK: Final = 16
BLOCKS: Final = 16
SIZE: Final = 110
NMAX: Final = np.float32(4)
NMAX_SCALE: Final = np.float32(32)


@inline
def _find_plain(x, weights, levels, scales):
    """Scales of 16 blocks, then levels 0..63 of them by the largest; d and the odd lanes."""
    largest, extreme = splat(ZERO), splat(ZERO)
    odd = largest > largest
    for block in range(BLOCKS):
        scale, bad = search_scale_q3(x, BLOCK * block * LANES, BLOCK, weights, levels, NMAX)
        store(scales, LANES * block, scale)
        larger = absolute(scale) > largest
        largest = where(larger, absolute(scale), largest)
        extreme = where(larger, scale, extreme)
        odd |= bad
    inverse = splat(-NMAX_SCALE) / extreme
    odd |= _scale_levels(scales, inverse)
    return splat(ONE) / inverse, odd


@inline
def _scale_levels(scales, inverse):
    """Scales become levels 0..63 by a common inverse scale; the odd lanes."""
    odd = inverse > inverse
    for block in range(BLOCKS):
        value = inverse * load(scales, LANES * block)
        odd |= is_odd(value)
        level = clip(nearest(value), splat(-NMAX_SCALE), splat(NMAX_SCALE - ONE))
        store(scales, LANES * block, level + splat(NMAX_SCALE))
    return odd


@inline
def _find_weighted(x, importance, weights, sums, scales):
    """As `_find_plain`, both searches weighted by importance and magnitude."""
    sigma2 = splat(np.float32(2)) * sum_of_squares(x, QK_K) / splat(np.float32(QK_K))
    odd = sigma2 > sigma2
    for block in range(BLOCKS):
        at = BLOCK * block * LANES
        total = splat(ZERO)
        for i in range(BLOCK):
            xi = load(x, at + LANES * i)
            w = load(importance, at + LANES * i) * sqrt(sigma2 + xi * xi)
            store(weights, LANES * i, w)
            total += w
        store(sums, LANES * block, total)
        scale, _, bad = search_scale(x, at, BLOCK, weights, 0, NMAX, STEPS_Q3_K)
        store(scales, LANES * block, scale)
        odd |= bad
    d, inverse, bad = search_scale(scales, 0, BLOCKS, sums, 0, NMAX_SCALE, STEPS_Q3_K_SCALES)
    bad |= _scale_levels(scales, inverse)
    return d, odd | bad


@inline
def _find(columns, importance, state):
    """Levels of the 16 scales and d (vectors); the odd lanes."""
    scales, factors, scratch, sums, weighted = state
    if weighted:
        d, bad = _find_weighted(columns, importance, scratch, sums, scales)
    else:
        d, bad = _find_plain(columns, scratch, sums, scales)
    store(factors, 0, d)
    return bad


@inline
def _pack_scales(scales, lane, out, at):
    for b in range(4):
        high = np.uint8(0)
        for group in range(4):
            high |= (np.uint8(scales[LANES * (4 * group + b) + lane]) >> 4) << (2 * group)
        out[at + 8 + b] = high
    for b in range(8):
        low = np.uint8(scales[LANES * b + lane]) & 15
        out[at + b] = low | ((np.uint8(scales[LANES * (8 + b) + lane]) & 15) << 4)


@inline
def _pack(x, block, state, lane, out):
    """Write one super-block; 1 if ggml must do it."""
    scales, factors, _, _, _ = state
    at = SIZE * block
    half = to_half(factors[lane])
    put_half(out, at + 108, half)
    _pack_scales(scales, lane, out, at + 96)
    d = from_half(half)
    zero, four = splat(ZERO), splat(NMAX)
    bad = zero > zero
    for i in range(0, 32, LANES):
        high = zero
        bit = ONE
        for part in range(2):
            low = zero
            factor = ONE
            for quarter in range(4):
                place = 128 * part + 32 * quarter + i
                scale = d * (scales[place // BLOCK * LANES + lane] - NMAX_SCALE)
                level, flag = final_levels(x, QK_K * block + place, scale, ZERO, -NMAX, NMAX - ONE)
                bad |= flag
                # Level + 4 is at least 4 where the level is not negative.
                upper = level >= zero
                high += where(upper, splat(bit), zero)
                low += where(upper, level, level + four) * splat(factor)
                bit += bit
                factor *= NMAX
            store_bytes(out, at + 32 + 32 * part + i, low)
        store_bytes(out, at + i, high)
    return np.uint8(any_lane(bad))


@inline
def _state(weighted):
    """Scales and d, scratch, importances of the blocks."""
    scales = np.empty(BLOCKS * LANES, np.float32)
    factors = np.empty(LANES, np.float32)
    scratch = np.empty(BLOCK * LANES, np.float32)
    sums = np.empty(BLOCKS * LANES, np.float32)
    return scales, factors, scratch, sums, weighted


@kernel
def quantize_q3_k(x, importance, per_row, out, odd):
    """Q3_K without importances; arguments as in `dispatch.Kernel`."""
    state = _state(False)
    for_lanes((x, importance, per_row, False), QK_K, _find, _pack, state, (out, odd))


@kernel
def quantize_q3_k_weighted(x, importance, per_row, out, odd):
    """Q3_K with importances."""
    state = _state(True)
    for_lanes((x, importance, per_row, True), QK_K, _find, _pack, state, (out, odd))
