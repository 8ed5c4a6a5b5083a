"""The searches for a block's scale, sixteen blocks side by side.

These are ggml's `make_qkx2_quants`, `make_qkx3_quants`, `make_qx_quants`, `make_q3_quants` and
`make_qp_quants` (ggml-quants.c, llama.cpp 0c1e57098) with every float replaced by a vector of
sixteen: a lane makes the same float32 operations in the same order as the C code does for its
block, and where the C code branches, a lane selects.

Two things differ, and neither changes a byte:

- C rounds by adding 1.5 * 2**23 and reading the low bits of the sum; here the constant is taken
  off again, which gives the same integer as a float for magnitudes up to 2**22 - 1.
- A lane outside that range (an infinity, NaN, a subnormal's reciprocal...) is reported as *odd*,
  and its block is left to ggml itself: see `dispatch.py`.

Arrays are flat float32; element `16 * i + lane` is weight i of the lane's block.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from pedsup_export.kernels.constants import GROUP_MAX_EPS, MAX_ROUNDED, RETRIES
from pedsup_export.kernels.jit import inline
from pedsup_export.kernels.vec import (
    absolute,
    any_lane,
    load,
    splat,
    store,
    where,
)

F32: Final = np.float32
LANES: Final = 16
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
def search_scale_min(x, at, n, weights, levels, nmax, steps, use_mad):
    """`make_qkx2_quants` and `make_qkx3_quants`: scale and minimum of x ~ scale * level + min.

    Tries `steps[s] / (max - min)` as inverse scales; for each, levels 0..nmax, the weighted least
    squares fit of scale and minimum to them, and its error. The running minimum enters the next
    step, as in C.

    Args:
        x, at: the weights, from element `at`.
        n: weights per block.
        weights: importances, n vectors.
        levels: scratch, n vectors.
        nmax: the highest level (float32).
        steps: float32, from `constants.step_table`.
        use_mad: sum absolute differences instead of squares.

    Returns:
        scale, minus the minimum, and the odd lanes. A flat block's lane is odd.
    """
    zero, top = splat(ZERO), splat(nmax)
    lowest = load(x, at)
    highest = lowest
    w = load(weights, 0)
    sum_w = w
    sum_x = w * lowest
    for i in range(1, n):
        xi = load(x, at + LANES * i)
        w = load(weights, LANES * i)
        lowest = where(xi < lowest, xi, lowest)
        highest = where(xi > highest, xi, highest)
        sum_w += w
        sum_x += w * xi
    minimum = where(lowest > zero, zero, lowest)
    inverse = top / (highest - minimum)
    scale = splat(ONE) / inverse
    odd = is_odd(inverse * (highest - minimum)) | is_odd(inverse * (lowest - minimum))
    best = zero
    for i in range(n):
        xi = load(x, at + LANES * i)
        level = clip(nearest(inverse * (xi - minimum)), zero, top)
        difference = scale * level + minimum - xi
        difference = absolute(difference) if use_mad else difference * difference
        best += load(weights, LANES * i) * difference
    for s in range(steps.size):
        inverse = splat(steps[s]) / (highest - minimum)
        # Rounding keeps order, so the extremes bound every weight between them.
        odd |= is_odd(inverse * (highest - minimum)) | is_odd(inverse * (lowest - minimum))
        sum_l, sum_l2, sum_xl = zero, zero, zero
        for i in range(n):
            xi = load(x, at + LANES * i)
            level = clip(nearest(inverse * (xi - minimum)), zero, top)
            store(levels, LANES * i, level)
            wl = load(weights, LANES * i) * level
            sum_l += wl
            sum_l2 += wl * level
            sum_xl += wl * xi
        determinant = sum_w * sum_l2 - sum_l * sum_l
        this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        this_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        above = this_min > zero
        this_min = where(above, zero, this_min)
        this_scale = where(above, sum_xl / sum_l2, this_scale)
        error = zero
        for i in range(n):
            difference = this_scale * load(levels, LANES * i) + this_min - load(x, at + LANES * i)
            difference = absolute(difference) if use_mad else difference * difference
            error += load(weights, LANES * i) * difference
        better = (determinant > zero) & (error < best)
        best = where(better, error, best)
        scale = where(better, this_scale, scale)
        minimum = where(better, this_min, minimum)
    return scale, -minimum, odd


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
def search_scale(x, at, n, weights, w_at, nmax, steps):
    """`make_qx_quants` with rmse_type 1: the scale of x ~ scale * level, levels -nmax..nmax-1.

    Args:
        x, at, n: as above.
        weights, w_at: importances, n vectors from element `w_at`.
        nmax: float32.
        steps: float32, from `constants.step_table_around`.

    Returns:
        scale, the inverse scale that gives the levels, and the odd lanes. Lanes of zeros are odd.
    """
    zero, bottom, top = splat(ZERO), splat(-nmax), splat(nmax - ONE)
    extreme, odd = extreme_weight(x, at, n)
    inverse = bottom / extreme
    chosen = inverse
    scale, best = zero, zero
    for s in range(-1, steps.size):
        if s >= 0:
            inverse = -splat(steps[s]) / extreme
        odd |= is_odd(inverse * extreme)
        sum_lx, sum_l2 = zero, zero
        for i in range(n):
            xi = load(x, at + LANES * i)
            w = load(weights, w_at + LANES * i)
            level = clip(nearest(inverse * xi), bottom, top)
            sum_lx += w * xi * level
            sum_l2 += w * level * level
        this_scale = sum_lx / sum_l2
        if s < 0:
            scale = where(sum_l2 != zero, this_scale, zero)
            best = scale * sum_lx
        else:
            better = (sum_l2 > zero) & (sum_lx * sum_lx > best * sum_l2)
            scale = where(better, this_scale, scale)
            best = where(better, this_scale * sum_lx, best)
            chosen = where(better, inverse, chosen)
    return scale, chosen, odd


@inline
def _move_levels(x, at, n, weights, levels, bottom, top, sum_lx, sum_l2):
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


@inline
def search_scale_q3(x, at, n, weights, levels, nmax):
    """`make_q3_quants`: as `search_scale`, but levels move one by one while the fit gets better.

    Importances are the squared weights; `weights` and `levels` are scratch. Returns scale and
    odd lanes.
    """
    zero = splat(ZERO)
    extreme, odd = extreme_weight(x, at, n)
    inverse = splat(-nmax) / extreme
    odd |= is_odd(inverse * extreme)
    sum_lx, sum_l2 = zero, zero
    for i in range(n):
        xi = load(x, at + LANES * i)
        level = clip(nearest(inverse * xi), splat(-nmax), splat(nmax - ONE))
        store(levels, LANES * i, level)
        w = xi * xi
        store(weights, LANES * i, w)
        sum_lx += w * xi * level
        sum_l2 += w * level * level
    sum_lx, sum_l2, bad = _move_levels(x, at, n, weights, levels, -nmax, nmax - ONE, sum_lx, sum_l2)
    return where(sum_l2 > zero, sum_lx / sum_l2, zero), odd | bad


@inline
def scales_by_largest(values, n, top, levels):
    """n scales (none negative) of a super-block to levels 0..top by the largest of them.

    This is what the `_ref` functions of ggml do; the levels' scale, and the odd lanes.
    """
    zero, highest = splat(ZERO), splat(top)
    largest = zero
    for i in range(n):
        value = load(values, LANES * i)
        largest = where(value > largest, value, largest)
    inverse = where(largest > zero, highest / largest, zero)
    odd = zero > zero
    for i in range(n):
        level = inverse * load(values, LANES * i)
        # C goes through uint8_t, which would wrap a negative level.
        odd |= is_odd(level) | (level < zero)
        level = nearest(level)
        store(levels, LANES * i, where(level > highest, highest, level))
    return largest / highest, odd


@inline
def quantize_scales(x, n, weights, nmax, levels):
    """`make_qp_quants`: n scales (none negative) of a super-block to levels 0..nmax.

    Args:
        x, n: the scales (or minima), n vectors.
        weights: their importances, n vectors.
        nmax: float32.
        levels: the result, n vectors.

    Returns:
        The scale of the levels, and the odd lanes.
    """
    zero, top = splat(ZERO), splat(nmax)
    largest = zero
    odd = zero > zero
    for i in range(n):
        xi = load(x, LANES * i)
        largest = where(largest > xi, largest, xi)
        odd |= ~(xi >= zero)
    nothing = largest < splat(GROUP_MAX_EPS)
    inverse = top / largest
    scale = splat(ONE) / inverse
    odd |= ~nothing & is_odd(inverse * largest)
    best = zero
    for i in range(n):
        xi = load(x, LANES * i)
        difference = xi - scale * nearest(inverse * xi)
        best += load(weights, LANES * i) * difference * difference
    for s in range(-4, 5):
        if s == 0:
            continue
        this_inverse = splat(F32(0.1) * F32(s) + nmax) / largest
        this_scale = splat(ONE) / this_inverse
        error = zero
        for i in range(n):
            xi = load(x, LANES * i)
            level = nearest(this_inverse * xi)
            level = where(level > top, top, level)
            difference = xi - this_scale * level
            error += load(weights, LANES * i) * difference * difference
        better = error < best
        best = where(better, error, best)
        inverse = where(better, this_inverse, inverse)
    sum_lx, sum_l2 = zero, zero
    for i in range(n):
        xi, w = load(x, LANES * i), load(weights, LANES * i)
        level = nearest(inverse * xi)
        level = where(level > top, top, level)
        store(levels, LANES * i, level)
        sum_lx += w * xi * level
        sum_l2 += w * level * level
    sum_lx, sum_l2, bad = _move_levels(x, 0, n, weights, levels, ZERO, nmax, sum_lx, sum_l2)
    odd |= ~nothing & bad
    for i in range(n):
        store(levels, LANES * i, where(nothing, zero, load(levels, LANES * i)))
    scale = where(sum_l2 > zero, sum_lx / sum_l2, zero)
    return where(nothing, zero, scale), odd
