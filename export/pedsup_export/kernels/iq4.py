"""IQ4_NL and IQ4_XS: four bits that choose one of sixteen unevenly spaced values.

    IQ4_NL  | d f16 | quants 16 bytes |  = 18                              32 weights
    IQ4_XS  | d f16 | scales high u16 | scales low 4 bytes | quants 128 bytes |  = 136
                                                     256 weights in 8 blocks of 32

    weight = d * IQ4_VALUES[quant]                                             IQ4_NL
    weight = d * (scale[block] - 32) * IQ4_VALUES[quant]                       IQ4_XS, scale 0..63

    quants: byte 16 * b + i holds weights i (low nibble) and 16 + i (high nibble) of block b
    scales: byte b / 2 of low: four bits of block b, the even one in the low nibble;
      bits 2b and 2b + 1 of high: its upper two bits

A lane is a block (IQ4_NL) or a super-block (IQ4_XS). Source: quantize_row_iq4_nl_impl and
best_index_int8 in ggml-quants.c. C finds the nearest value by bisection; counting how many of
the fifteen midpoints are not above a number gives the same one, since the differences that C
compares are exact where they are close.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from pedsup_export.kernels.lanes.constants import GROUP_MAX_EPS, IQ4_VALUES, QK_K
from pedsup_export.kernels.lanes.half import put_half, to_half
from pedsup_export.kernels.lanes.jit import inline, kernel
from pedsup_export.kernels.lanes.layout import for_lanes
from pedsup_export.kernels.lanes.levels import ONE, ZERO, clip, is_odd, nearest
from pedsup_export.kernels.lanes.vec import (
    LANES,
    absolute,
    load,
    splat,
    sqrt,
    store,
    store_bytes,
    where,
)

MIDPOINTS: Final = (IQ4_VALUES[1:] + IQ4_VALUES[:-1]) / np.float32(2)
GAPS: Final = np.diff(IQ4_VALUES)
FIRST: Final = np.float32(-127)
TRIES: Final = 7
BLOCK: Final = 32
BLOCKS_XS: Final = 8
SIZE_NL, SIZE_XS = 18, 136
NMAX_SCALE: Final = np.float32(32)
LARGEST: Final = np.finfo(np.float32).max


@inline
def _nearest_value(x):
    """The one of IQ4_VALUES next to each lane, the upper one of two equally near."""
    value = splat(FIRST)
    for i in range(15):
        value += where(x >= splat(MIDPOINTS[i]), splat(GAPS[i]), splat(ZERO))
    return value


@inline
def _nearest_index(x):
    """Its index, 0..15."""
    index = splat(ZERO)
    for i in range(15):
        index += where(x >= splat(MIDPOINTS[i]), splat(ONE), splat(ZERO))
    return index


@inline
def _sums(x, at, weights, inverse):
    """Weighted sums of value * x and value ** 2 for the values nearest to `inverse * x`."""
    sum_qx, sum_q2 = splat(ZERO), splat(ZERO)
    for i in range(BLOCK):
        xi = load(x, at + LANES * i)
        q = _nearest_value(inverse * xi)
        wq = load(weights, LANES * i) * q
        sum_qx += wq * xi
        sum_q2 += wq * q
    return sum_qx, sum_q2


@inline
def _search(x, at, importance, sigma2, weighted, weights):
    """The scale of one block in each lane, 0 for blocks of zeros; odd lanes."""
    zero = splat(ZERO)
    largest, extreme = zero, zero
    for i in range(BLOCK):
        xi = load(x, at + LANES * i)
        w = xi * xi
        if weighted:
            w = load(importance, at + LANES * i) * sqrt(sigma2 + xi * xi)
        store(weights, LANES * i, w)
        larger = absolute(xi) > largest
        largest = where(larger, absolute(xi), largest)
        extreme = where(larger, xi, extreme)
    nothing = largest < splat(GROUP_MAX_EPS)
    inverse = splat(ONE) / (-extreme / splat(FIRST))
    sum_qx, sum_q2 = _sums(x, at, weights, inverse)
    # An infinite factor makes NaN of a zero weight, and bisection has its own idea of NaN.
    odd = ~(absolute(inverse) <= splat(LARGEST))
    scale = where(sum_q2 > zero, sum_qx / sum_q2, zero)
    best = scale * sum_qx
    for step in range(-TRIES, TRIES + 1):
        inverse = splat(np.float32(step) + FIRST) / extreme
        odd |= ~(absolute(inverse) <= splat(LARGEST))
        sum_qx, sum_q2 = _sums(x, at, weights, inverse)
        better = (sum_q2 > zero) & (sum_qx * sum_qx > best * sum_q2)
        scale = where(better, sum_qx / sum_q2, scale)
        best = where(better, scale * sum_qx, best)
    return where(nothing, zero, scale), odd & ~nothing


@inline
def _sigma2(x, n, factor):
    total = splat(ZERO)
    for i in range(n):
        xi = load(x, LANES * i)
        total += xi * xi
    return total * splat(factor)


@inline
def _put_block(x, at, inverse, out, out_at):
    """The quants of one block of 32 weights."""
    low = _nearest_index(splat(inverse) * load(x, at))
    high = _nearest_index(splat(inverse) * load(x, at + LANES))
    store_bytes(out, out_at, low + high * splat(np.float32(16)))


@inline
def _reciprocal(value):
    return ONE / value if value != ZERO else ZERO


@inline
def _find_nl(columns, importance, state):
    """The scale of each lane's block; the odd lanes."""
    scales, weights, weighted = state
    sigma2 = _sigma2(columns, BLOCK, np.float32(2.0 / 32))
    scale, bad = _search(columns, 0, importance, sigma2, weighted, weights)
    store(scales, 0, scale)
    return bad


@inline
def _pack_nl(x, block, state, lane, out):
    """Write one block; 1 if ggml must do it."""
    scales, _, _ = state
    inverse = _reciprocal(scales[lane])
    put_half(out, SIZE_NL * block, to_half(scales[lane]))
    _put_block(x, BLOCK * block, inverse, out, SIZE_NL * block + 2)
    return np.uint8(not abs(inverse) <= LARGEST)


@inline
def _find_xs(columns, importance, state):
    """Levels of the 8 scales and d (vectors); the odd lanes."""
    levels, factors, weights, weighted = state
    sigma2 = _sigma2(columns, QK_K, np.float32(2.0 / 256))
    zero = splat(ZERO)
    largest, extreme = zero, zero
    bad = zero > zero
    for block in range(BLOCKS_XS):
        at = BLOCK * block * LANES
        scale, flag = _search(columns, at, importance, sigma2, weighted, weights)
        store(levels, LANES * block, scale)
        larger = absolute(scale) > largest
        largest = where(larger, absolute(scale), largest)
        extreme = where(larger, scale, extreme)
        bad |= flag
    d = -extreme / splat(NMAX_SCALE)
    inverse = where(d != zero, splat(ONE) / d, zero)
    for block in range(BLOCKS_XS):
        value = inverse * load(levels, LANES * block)
        bad |= is_odd(value)
        level = clip(nearest(value), splat(-NMAX_SCALE), splat(NMAX_SCALE - ONE))
        store(levels, LANES * block, level)
    store(factors, 0, d)
    return bad


@inline
def _pack_xs(x, block, state, lane, out):
    """Write one super-block; 1 if ggml must do it."""
    levels, factors, _, _ = state
    d = factors[lane]
    at = SIZE_XS * block
    put_half(out, at, to_half(d))
    high = np.uint32(0)
    odd = np.uint8(0)
    for b in range(BLOCKS_XS):
        level = levels[LANES * b + lane]
        inverse = _reciprocal(d * level)
        odd |= np.uint8(not abs(inverse) <= LARGEST)
        _put_block(x, QK_K * block + BLOCK * b, inverse, out, at + 8 + 16 * b)
        number = np.uint32(level + NMAX_SCALE)
        high |= (number >> np.uint32(4)) << np.uint32(2 * b)
        if b % 2 == 0:
            out[at + 4 + b // 2] = np.uint8(number & np.uint32(15))
        else:
            out[at + 4 + b // 2] |= np.uint8((number & np.uint32(15)) << np.uint32(4))
    put_half(out, at + 2, high)
    return odd


@inline
def _state_nl(weighted):
    """Scales, the weights of the search."""
    scales = np.empty(LANES, np.float32)
    weights = np.empty(BLOCK * LANES, np.float32)
    return scales, weights, weighted


@inline
def _state_xs(weighted):
    """Levels of the scales and d, the weights of one block's search."""
    levels = np.empty(BLOCKS_XS * LANES, np.float32)
    factors = np.empty(LANES, np.float32)
    weights = np.empty(BLOCK * LANES, np.float32)
    return levels, factors, weights, weighted


@kernel
def quantize_iq4_nl(x, importance, per_row, out, odd):
    """IQ4_NL without importances; arguments as in `dispatch.Kernel`."""
    source = x, importance, per_row, False
    for_lanes(source, BLOCK, _find_nl, _pack_nl, _state_nl(False), (out, odd))


@kernel
def quantize_iq4_nl_weighted(x, importance, per_row, out, odd):
    """IQ4_NL with importances."""
    source = x, importance, per_row, True
    for_lanes(source, BLOCK, _find_nl, _pack_nl, _state_nl(True), (out, odd))


@kernel
def quantize_iq4_xs(x, importance, per_row, out, odd):
    """IQ4_XS without importances."""
    source = x, importance, per_row, False
    for_lanes(source, QK_K, _find_xs, _pack_xs, _state_xs(False), (out, odd))


@kernel
def quantize_iq4_xs_weighted(x, importance, per_row, out, odd):
    """IQ4_XS with importances."""
    source = x, importance, per_row, True
    for_lanes(source, QK_K, _find_xs, _pack_xs, _state_xs(True), (out, odd))
