"""Scales of a super-block become small integers: `make_qp_quants`, and the plain way.

As in `search.py`, every lane does what the C code does for its super-block; element
`16 * i + lane` of an array is block i's of the lane's super-block.
"""

from __future__ import annotations

from pedsup_export.kernels.lanes.constants import GROUP_MAX_EPS
from pedsup_export.kernels.lanes.jit import inline
from pedsup_export.kernels.lanes.levels import F32, ONE, ZERO, is_odd, move_levels, nearest
from pedsup_export.kernels.lanes.vec import LANES, load, splat, store, where


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
def _error(x, n, weights, inverse, top):
    """The weighted square error of n scales as levels 0..top by a common inverse scale."""
    scale = splat(ONE) / inverse
    error = splat(ZERO)
    for i in range(n):
        xi = load(x, LANES * i)
        # The inverse scale that C tries first takes no level above the top.
        level = nearest(inverse * xi)
        level = where(level > top, top, level)
        difference = xi - scale * level
        error += load(weights, LANES * i) * difference * difference
    return error


@inline
def _level_sums(x, n, weights, levels, inverse, top):
    """Store the levels 0..top; the weighted sums of scale by level and of level squared."""
    sum_lx, sum_l2 = splat(ZERO), splat(ZERO)
    for i in range(n):
        xi, w = load(x, LANES * i), load(weights, LANES * i)
        level = nearest(inverse * xi)
        level = where(level > top, top, level)
        store(levels, LANES * i, level)
        sum_lx += w * xi * level
        sum_l2 += w * level * level
    return sum_lx, sum_l2


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
    odd |= ~nothing & is_odd(inverse * largest)
    best = _error(x, n, weights, inverse, top)
    for s in range(-4, 5):
        if s == 0:
            continue
        this_inverse = splat(F32(0.1) * F32(s) + nmax) / largest
        error = _error(x, n, weights, this_inverse, top)
        better = error < best
        best = where(better, error, best)
        inverse = where(better, this_inverse, inverse)
    sum_lx, sum_l2 = _level_sums(x, n, weights, levels, inverse, top)
    sum_lx, sum_l2, bad = move_levels(x, 0, n, weights, levels, ZERO, nmax, sum_lx, sum_l2)
    odd |= ~nothing & bad
    for i in range(n):
        store(levels, LANES * i, where(nothing, zero, load(levels, LANES * i)))
    scale = where(sum_l2 > zero, sum_lx / sum_l2, zero)
    return where(nothing, zero, scale), odd


@inline
def scales_and_minima(found, n, top, weighted, levels, factors):
    """Levels of n scales and n minima (`found[0]`, `found[1]`), their factors; the odd lanes.

    `found[2]` holds the importances of the blocks, which the weighted way looks at.
    """
    if weighted:
        d, bad = quantize_scales(found[0], n, found[2], top, levels[0])
        dmin, bad_min = quantize_scales(found[1], n, found[2], top, levels[1])
    else:
        d, bad = scales_by_largest(found[0], n, top, levels[0])
        dmin, bad_min = scales_by_largest(found[1], n, top, levels[1])
    store(factors[0], 0, d)
    store(factors[1], 0, dmin)
    return bad | bad_min
