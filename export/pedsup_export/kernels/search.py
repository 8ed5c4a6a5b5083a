"""The searches for a block's scale, sixteen blocks side by side.

These are ggml's `make_qkx2_quants`, `make_qkx3_quants`, `make_qx_quants` and `make_q3_quants`
(ggml-quants.c, llama.cpp 0c1e57098) with every float replaced by a vector of sixteen: a lane
makes the same float32 operations in the same order as the C code does for its block, and where
the C code branches, a lane selects. Lanes that `levels.py` cannot round are reported as odd.

Arrays are flat float32; element `16 * i + lane` is weight i of the lane's block.
"""

from __future__ import annotations

from pedsup_export.kernels.lanes.jit import inline
from pedsup_export.kernels.lanes.levels import (
    ONE,
    ZERO,
    clip,
    extreme_weight,
    is_odd,
    move_levels,
    nearest,
)
from pedsup_export.kernels.lanes.vec import LANES, absolute, load, splat, store, where


@inline
def _range_and_sums(x, at, n, weights):
    """The lowest and the highest weight, the sum of importances, and that of weights by them."""
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
    return lowest, highest, sum_w, sum_x


@inline
def _level_sums(x, at, n, weights, levels, inverse, minimum, top):
    """Store the levels 0..top; the weighted sums of level, level squared and level by weight."""
    zero = splat(ZERO)
    sum_l, sum_l2, sum_xl = zero, zero, zero
    for i in range(n):
        xi = load(x, at + LANES * i)
        level = clip(nearest(inverse * (xi - minimum)), zero, top)
        store(levels, LANES * i, level)
        wl = load(weights, LANES * i) * level
        sum_l += wl
        sum_l2 += wl * level
        sum_xl += wl * xi
    return sum_l, sum_l2, sum_xl


@inline
def _fit(sum_w, sum_x, sums):
    """The least squares fit of a scale and a minimum of at most 0, after its determinant."""
    sum_l, sum_l2, sum_xl = sums
    zero = splat(ZERO)
    determinant = sum_w * sum_l2 - sum_l * sum_l
    scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
    minimum = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
    above = minimum > zero
    return determinant, where(above, sum_xl / sum_l2, scale), where(above, zero, minimum)


@inline
def _error(x, at, n, weights, levels, scale, minimum, use_mad):
    error = splat(ZERO)
    for i in range(n):
        difference = scale * load(levels, LANES * i) + minimum - load(x, at + LANES * i)
        difference = absolute(difference) if use_mad else difference * difference
        error += load(weights, LANES * i) * difference
    return error


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
    lowest, highest, sum_w, sum_x = _range_and_sums(x, at, n, weights)
    minimum = where(lowest > zero, zero, lowest)
    inverse = top / (highest - minimum)
    scale = splat(ONE) / inverse
    odd = is_odd(inverse * (highest - minimum)) | is_odd(inverse * (lowest - minimum))
    _level_sums(x, at, n, weights, levels, inverse, minimum, top)
    best = _error(x, at, n, weights, levels, scale, minimum, use_mad)
    for s in range(steps.size):
        inverse = splat(steps[s]) / (highest - minimum)
        # Rounding keeps order, so the extremes bound every weight between them.
        odd |= is_odd(inverse * (highest - minimum)) | is_odd(inverse * (lowest - minimum))
        sums = _level_sums(x, at, n, weights, levels, inverse, minimum, top)
        determinant, this_scale, this_min = _fit(sum_w, sum_x, sums)
        error = _error(x, at, n, weights, levels, this_scale, this_min, use_mad)
        better = (determinant > zero) & (error < best)
        best = where(better, error, best)
        scale = where(better, this_scale, scale)
        minimum = where(better, this_min, minimum)
    return scale, -minimum, odd


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
    sum_lx, sum_l2, bad = move_levels(x, at, n, weights, levels, -nmax, nmax - ONE, sum_lx, sum_l2)
    return where(sum_l2 > zero, sum_lx / sum_l2, zero), odd | bad
