"""Q6_K: super-blocks of 256 weights in 16 blocks of 16.

    | low 4 bits 128 bytes | high 2 bits 64 bytes | scales 16 x int8 | d f16 |  = 210

    weight = d * scale[block] * (level - 32)                        level 0..63

    for each half of 128 weights, i = 0..31:
      low  byte i       weight i        (low nibble) and 64 + i (high nibble)
      low  byte 32 + i  weight 32 + i   (low nibble) and 96 + i (high nibble)
      high byte i       two bits each of weights i, 32 + i, 64 + i, 96 + i

A lane is a super-block. Source: quantize_row_q6_K_ref and quantize_row_q6_K_impl in
ggml-quants.c; importances are the squared weights when none are given.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from pedsup_export.kernels.lanes.constants import QK_K, STEPS_Q6_K
from pedsup_export.kernels.lanes.half import from_half, put_half, to_half
from pedsup_export.kernels.lanes.jit import inline, kernel
from pedsup_export.kernels.lanes.layout import for_lanes
from pedsup_export.kernels.lanes.levels import ONE, ZERO, final_levels, is_odd, nearest
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
from pedsup_export.kernels.search import search_scale

BLOCK: Final = 16
BLOCKS: Final = 16
SIZE: Final = 210
NMAX: Final = np.float32(32)
LOWEST_SCALE, HIGHEST_SCALE = np.float32(-128), np.float32(127)


@inline
def _find_scales(x, importance, weighted, weights, scales):
    """The scales of 16 blocks (vectors), the one of largest magnitude, and the odd lanes."""
    largest, extreme = splat(ZERO), splat(ZERO)
    odd = largest > largest
    for block in range(BLOCKS):
        at = BLOCK * block * LANES
        if weighted:
            scale, _, bad = search_scale(x, at, BLOCK, importance, at, NMAX, STEPS_Q6_K)
        else:
            for i in range(BLOCK):
                xi = load(x, at + LANES * i)
                store(weights, LANES * i, xi * xi)
            scale, _, bad = search_scale(x, at, BLOCK, weights, 0, NMAX, STEPS_Q6_K)
        store(scales, LANES * block, scale)
        larger = absolute(scale) > largest
        largest = where(larger, absolute(scale), largest)
        extreme = where(larger, scale, extreme)
        odd |= bad
    return extreme, odd


@inline
def _find(columns, importance, state):
    """Levels of the 16 scales and d (vectors); the odd lanes."""
    scales, d, weights, weighted = state
    extreme, bad = _find_scales(columns, importance, weighted, weights, scales)
    inverse = splat(LOWEST_SCALE) / extreme
    store(d, 0, splat(ONE) / inverse)
    top = splat(HIGHEST_SCALE)
    for block in range(BLOCKS):
        value = inverse * load(scales, LANES * block)
        bad |= is_odd(value)
        level = nearest(value)
        store(scales, LANES * block, where(level > top, top, level))
    return bad


@inline
def _pack(x, block, state, lane, out):
    """Write one super-block; 1 if ggml must do it."""
    scales, factors, _, _ = state
    at = SIZE * block
    half = to_half(factors[lane])
    put_half(out, at + 208, half)
    d = from_half(half)
    for b in range(BLOCKS):
        out[at + 192 + b] = np.uint8(np.int32(scales[LANES * b + lane]))
    bad = splat(ZERO) > splat(ZERO)
    for part in range(2):
        for i in range(0, 32, LANES):
            low, high, odd = _split(x, block, 128 * part + i, d, scales, lane)
            bad |= odd
            low1, high1, odd = _split(x, block, 128 * part + 32 + i, d, scales, lane)
            bad |= odd
            low2, high2, odd = _split(x, block, 128 * part + 64 + i, d, scales, lane)
            bad |= odd
            low3, high3, odd = _split(x, block, 128 * part + 96 + i, d, scales, lane)
            bad |= odd
            four, sixteen = splat(np.float32(4)), splat(np.float32(16))
            store_bytes(out, at + 64 * part + i, low + low2 * sixteen)
            store_bytes(out, at + 64 * part + 32 + i, low1 + low3 * sixteen)
            high += high1 * four + high2 * sixteen + high3 * (four * sixteen)
            store_bytes(out, at + 128 + 32 * part + i, high)
    return np.uint8(any_lane(bad))


@inline
def _split(x, block, place, d, scales, lane):
    """Low four and high two bits of weights `place : place + 16` (one block), and odd lanes."""
    scale = d * scales[place // BLOCK * LANES + lane]
    level, odd = final_levels(x, QK_K * block + place, scale, ZERO, -NMAX, NMAX - ONE)
    sixteen = splat(np.float32(16))
    number = level + splat(NMAX)
    high = truncate(number / sixteen)
    return number - high * sixteen, high, odd


@inline
def _state(weighted):
    """Scales and d, the weights of one block's search."""
    scales = np.empty(BLOCKS * LANES, np.float32)
    d = np.empty(LANES, np.float32)
    weights = np.empty(BLOCK * LANES, np.float32)
    return scales, d, weights, weighted


@kernel
def quantize_q6_k(x, importance, per_row, out, odd):
    """Q6_K without importances; arguments as in `dispatch.Kernel`."""
    state = _state(False)
    for_lanes((x, importance, per_row, False), QK_K, _find, _pack, state, (out, odd))


@kernel
def quantize_q6_k_weighted(x, importance, per_row, out, odd):
    """Q6_K with importances."""
    state = _state(True)
    for_lanes((x, importance, per_row, True), QK_K, _find, _pack, state, (out, odd))
