"""Rounding and levels, as ggml-quants.c does them, for sixteen blocks or weights side by side.

C rounds by adding 1.5 * 2**23 and reading the low bits of the sum (`nearest_int`); here the
constant is taken off again, which gives the same integer as a float for magnitudes up to
2**22 - 1. What lies outside, infinities and NaN are *odd*: their blocks are left to ggml.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from pedsup_export.kernels.lanes.constants import GROUP_MAX_EPS, MAX_ROUNDED, RETRIES
from pedsup_export.kernels.lanes.jit import inline
from pedsup_export.kernels.lanes.vec import LANES, absolute, any_lane, load, splat, store, where

F32: Final = np.float32
MAGIC: Final = np.float32(12582912.0)
ZERO, ONE = np.float32(0), np.float32(1)


@inline
def nearest(value):
    """Round half to even, as `nearest_int`; magnitudes up to MAX_ROUNDED."""
    return (value + splat(MAGIC)) - splat(MAGIC)


@inline
def is_odd(value):
    """Lanes that `nearest` cannot round: too large, or NaN."""
    return ~(absolute(value) <= splat(MAX_ROUNDED))


@inline
def clip(value, low, high):
    """`MAX(low, MIN(high, value))`."""
    value = where(value > high, high, value)
    return where(value < low, low, value)


@inline
def final_levels(x, at, scale, minimum, bottom, top):
    """Levels of 16 consecutive weights of one block: `nearest((x + minimum) / scale)`, clipped.

    Here a lane is a weight. Returns the levels and the odd lanes; all are odd if scale is 0.
    """
    value = (load(x, at) + splat(minimum)) / splat(scale)
    odd = is_odd(value) | (splat(scale) == splat(ZERO))
    return clip(nearest(value), splat(bottom), splat(top)), odd


@inline
def extreme_weight(x, at, n):
    """The first weight of largest magnitude, with its sign; lanes of (almost) zeros are odd."""
    largest, extreme = splat(ZERO), splat(ZERO)
    for i in range(n):
        xi = load(x, at + LANES * i)
        larger = absolute(xi) > largest
        largest = where(larger, absolute(xi), largest)
        extreme = where(larger, xi, extreme)
    return extreme, largest < splat(GROUP_MAX_EPS)


@inline
def move_levels(x, at, n, weights, levels, bottom, top, sum_lx, sum_l2):
    """Move single levels to where the fit gets better; the last part of two searches.

    `sum_lx` and `sum_l2` are the weighted sums of level * x and level ** 2. Negative levels
    are allowed where `bottom` is: `make_q3_quants` then looks at the sum of squares after the
    move, `make_qp_quants` before it.

    Returns:
        Both sums of the final levels, and the odd lanes.
    """
    zero = splat(ZERO)
    odd = zero > zero
    for _ in range(RETRIES):
        # A lane without a change in one pass has none in the next: it needs no break of its own.
        changed = zero > zero
        for i in range(n):
            xi, w = load(x, at + LANES * i), load(weights, LANES * i)
            level = load(levels, LANES * i)
            lx = sum_lx - w * xi * level
            l2 = sum_l2 - w * level * level
            tried = lx > zero
            if bottom == ZERO:
                tried = tried & (l2 > zero)
            wanted = xi * l2 / lx
            odd |= tried & is_odd(wanted)
            wanted = clip(nearest(wanted), splat(bottom), splat(top))
            lx += w * xi * wanted
            l2 += w * wanted * wanted
            better = tried & (wanted != level) & (lx * lx * sum_l2 > sum_lx * sum_lx * l2)
            if bottom != ZERO:
                better = better & (l2 > zero)
            store(levels, LANES * i, where(better, wanted, level))
            sum_lx = where(better, lx, sum_lx)
            sum_l2 = where(better, l2, sum_l2)
            changed |= better
        if not any_lane(changed):
            break
    return sum_lx, sum_l2, odd
