"""Q4_K and Q5_K: super-blocks of 256 weights in 8 blocks of 32.

    Q4_K  | d f16 | dmin f16 | scales 12 bytes |               | quants 128 bytes | = 144
    Q5_K  | d f16 | dmin f16 | scales 12 bytes | bit 4s 32 b.  | quants 128 bytes | = 176

    weight = d * scale[block] * level - dmin * min[block]        level 0..15 or 0..31

    scales, 6 bits each, s = scale, m = min, of block 0..7:
      byte 0..3   | s4..7 bits 4-5 | s0..3          |
      byte 4..7   | m4..7 bits 4-5 | m0..3          |
      byte 8..11  | m4..7 bits 0-3 | s4..7 bits 0-3 |
    quants: byte 32 * p + i holds weight i of block 2p (low) and 2p + 1 (high nibble)
    bit 4s: byte i, bit b: the fifth bit of weight i of block b

A lane is a super-block. Sources: quantize_row_q4_K_ref, quantize_row_q4_K_impl and their q5_K
sisters in ggml-quants.c.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from pedsup_export.kernels.lanes.constants import (
    QK_K,
    STEPS_Q4_K,
    STEPS_Q4_K_WEIGHTED,
    STEPS_Q5_K,
    STEPS_Q5_K_WEIGHTED,
)
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
    where,
)
from pedsup_export.kernels.scales import scales_and_minima
from pedsup_export.kernels.search import search_scale_min

BLOCK: Final = 32
BLOCKS: Final = 8
TOP_SCALE: Final = np.float32(63)
TOP_Q4, TOP_Q5 = np.float32(15), np.float32(31)
SIZE_Q4, SIZE_Q5 = 144, 176


@inline
def _find_blocks(x, importance, sigma2, nmax, steps, weighted, scratch, found):
    """Scales, minima and importances of the 8 blocks of 16 super-blocks; the odd lanes.

    `found` holds 3 x 8 vectors: scales, minima, importances.
    """
    weights, levels = scratch[0], scratch[1]
    odd = splat(ZERO) > splat(ZERO)
    for block in range(BLOCKS):
        at = BLOCK * block * LANES
        if weighted:
            for i in range(BLOCK):
                xi = load(x, at + LANES * i)
                store(weights, LANES * i, load(importance, at + LANES * i) * sqrt(sigma2 + xi * xi))
        else:
            total = splat(ZERO)
            for i in range(BLOCK):
                xi = load(x, at + LANES * i)
                total += xi * xi
            mean = sqrt(total / splat(np.float32(32)))
            for i in range(BLOCK):
                store(weights, LANES * i, mean + absolute(load(x, at + LANES * i)))
        total = splat(ZERO)
        for i in range(BLOCK):
            total += load(weights, LANES * i)
        scale, minimum, bad = search_scale_min(x, at, BLOCK, weights, levels, nmax, steps, False)
        store(found[0], LANES * block, scale)
        store(found[1], LANES * block, minimum)
        store(found[2], LANES * block, total)
        odd |= bad
    return odd


@inline
def _find(columns, importance, state):
    """Levels of the 8 scales and minima of 16 super-blocks, d and dmin (vectors); odd lanes."""
    levels, factors, found, scratch, nmax, steps, weighted = state
    sigma2 = splat(ZERO)
    if weighted:
        sigma2 = splat(np.float32(2)) * sum_of_squares(columns, QK_K)
        sigma2 = sigma2 / splat(np.float32(QK_K))
    bad = _find_blocks(columns, importance, sigma2, nmax, steps, weighted, scratch, found)
    return bad | scales_and_minima(found, BLOCKS, TOP_SCALE, weighted, levels, factors)


@inline
def _pack_scales(levels, lane, out, at):
    for b in range(4):
        s, m = np.uint8(levels[0, LANES * b + lane]), np.uint8(levels[1, LANES * b + lane])
        s4 = np.uint8(levels[0, LANES * (b + 4) + lane])
        m4 = np.uint8(levels[1, LANES * (b + 4) + lane])
        out[at + b] = s | ((s4 >> 4) << 6)
        out[at + 4 + b] = m | ((m4 >> 4) << 6)
        out[at + 8 + b] = (s4 & 15) | ((m4 & 15) << 4)


@inline
def _pack(x, block, state, lane, out):
    """Write one super-block; 1 if ggml must do it."""
    levels, factors, _, _, nmax, _, _ = state
    five = nmax > TOP_Q4
    at = block * (SIZE_Q5 if five else SIZE_Q4)
    half_d, half_min = to_half(factors[0, lane]), to_half(factors[1, lane])
    put_half(out, at, half_d)
    put_half(out, at + 2, half_min)
    d, dmin = from_half(half_d), from_half(half_min)
    _pack_scales(levels, lane, out, at + 4)
    quants = at + (48 if five else 16)
    zero, sixteen = splat(ZERO), splat(np.float32(16))
    bad = zero > zero
    for half in range(0, BLOCK, LANES):
        high_bits = zero
        bit = ONE
        for pair in range(4):
            both = zero
            for b in range(2):
                k = LANES * (2 * pair + b) + lane
                place = QK_K * block + BLOCK * (2 * pair + b) + half
                level, flag = final_levels(
                    x, place, d * levels[0, k], dmin * levels[1, k], ZERO, nmax
                )
                bad |= flag
                if five:
                    high = level >= sixteen
                    high_bits += where(high, splat(bit), zero)
                    level = where(high, level - sixteen, level)
                    bit = bit + bit
                both += level if b == 0 else level * sixteen
            store_bytes(out, quants + BLOCK * pair + half, both)
        if five:
            store_bytes(out, at + 16 + half, high_bits)
    return np.uint8(any_lane(bad))


@inline
def _state(nmax, steps, weighted):
    """Levels and factors (scales, minima), what is found of each block, scratch, constants."""
    levels = np.empty((2, BLOCKS * LANES), np.float32)
    factors = np.empty((2, LANES), np.float32)
    found = np.empty((3, BLOCKS * LANES), np.float32)
    scratch = np.empty((2, BLOCK * LANES), np.float32)
    return levels, factors, found, scratch, nmax, steps, weighted


@kernel
def quantize_q4_k(x, importance, per_row, out, odd):
    """Q4_K without importances; arguments as in `dispatch.Kernel`."""
    state = _state(TOP_Q4, STEPS_Q4_K, False)
    for_lanes((x, importance, per_row, False), QK_K, _find, _pack, state, (out, odd))


@kernel
def quantize_q4_k_weighted(x, importance, per_row, out, odd):
    """Q4_K with importances."""
    state = _state(TOP_Q4, STEPS_Q4_K_WEIGHTED, True)
    for_lanes((x, importance, per_row, True), QK_K, _find, _pack, state, (out, odd))


@kernel
def quantize_q5_k(x, importance, per_row, out, odd):
    """Q5_K without importances."""
    state = _state(TOP_Q5, STEPS_Q5_K, False)
    for_lanes((x, importance, per_row, False), QK_K, _find, _pack, state, (out, odd))


@kernel
def quantize_q5_k_weighted(x, importance, per_row, out, odd):
    """Q5_K with importances."""
    state = _state(TOP_Q5, STEPS_Q5_K_WEIGHTED, True)
    for_lanes((x, importance, per_row, True), QK_K, _find, _pack, state, (out, odd))
