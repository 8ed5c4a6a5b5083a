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

from typing import Any, Final

import numpy as np

from pedsup_export.kernels.jit import inline
from pedsup_export.kernels.vec import (
    absolute,
    any_lane,
    bits_float,
    float_bits,
    load,
    splat,
    store,
    where,
)

F32: Final = np.float32
LANES: Final = 16
MAGIC: Final = np.float32(12582912.0)
MAX_ROUNDED: Final = np.float32(4194303.0)
"""ggml's nearest_int asserts this bound."""
GROUP_MAX_EPS: Final = np.float32(1e-15)
ZERO, ONE, HALF = np.float32(0), np.float32(1), np.float32(0.5)
RETRIES: Final = 5
"""Passes in which single weights may move to a better level."""


def step_table(first: float, step: float, last: int, nmax: int) -> Any:
    """`first + step * i + nmax` for i = 0 .. last, in float32 and in C's order."""
    steps = np.float32(first) + np.float32(step) * np.arange(last + 1, dtype=np.float32)
    return steps + np.float32(nmax)


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
        steps: float32, from `step_table`.
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
def search_scale(x, at, n, weights, w_at, nmax, steps):
    """`make_qx_quants` with rmse_type 1: the scale of x ~ scale * level, levels -nmax..nmax-1.

    Args:
        x, at, n: as above.
        weights, w_at: importances, n vectors from element `w_at`.
        nmax: float32.
        steps: `nmax + 0.1 * s` for s = -9..9 without 0, float32.

    Returns:
        scale, the inverse scale that gives the levels, and the odd lanes. Lanes of zeros are odd.
    """
    zero, bottom, top = splat(ZERO), splat(-nmax), splat(nmax - ONE)
    largest, extreme = zero, zero
    for i in range(n):
        xi = load(x, at + LANES * i)
        larger = absolute(xi) > largest
        largest = where(larger, absolute(xi), largest)
        extreme = where(larger, xi, extreme)
    odd = largest < splat(GROUP_MAX_EPS)
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
def search_scale_q3(x, at, n, levels, nmax):
    """`make_q3_quants`: as `search_scale`, but levels move one by one while the fit gets better.

    Importances are the squared weights. Returns scale and odd lanes.
    """
    zero, bottom, top = splat(ZERO), splat(-nmax), splat(nmax - ONE)
    largest, extreme = zero, zero
    for i in range(n):
        xi = load(x, at + LANES * i)
        larger = absolute(xi) > largest
        largest = where(larger, absolute(xi), largest)
        extreme = where(larger, xi, extreme)
    odd = largest < splat(GROUP_MAX_EPS)
    inverse = bottom / extreme
    odd |= is_odd(inverse * extreme)
    sum_lx, sum_l2 = zero, zero
    for i in range(n):
        xi = load(x, at + LANES * i)
        level = clip(nearest(inverse * xi), bottom, top)
        store(levels, LANES * i, level)
        w = xi * xi
        sum_lx += w * xi * level
        sum_l2 += w * level * level
    for _ in range(RETRIES):
        # A lane without a change in one pass has none in the next: it needs no break of its own.
        changed = zero > zero
        for i in range(n):
            xi = load(x, at + LANES * i)
            w = xi * xi
            level = load(levels, LANES * i)
            lx = sum_lx - w * xi * level
            l2 = sum_l2 - w * level * level
            wanted = xi * l2 / lx
            tried = lx > zero
            odd |= tried & is_odd(wanted)
            wanted = clip(nearest(wanted), bottom, top)
            lx += w * xi * wanted
            l2 += w * wanted * wanted
            better = tried & (wanted != level) & (l2 > zero)
            better = better & (lx * lx * sum_l2 > sum_lx * sum_lx * l2)
            store(levels, LANES * i, where(better, wanted, level))
            sum_lx = where(better, lx, sum_lx)
            sum_l2 = where(better, l2, sum_l2)
            changed |= better
        if not any_lane(changed):
            break
    return where(sum_l2 > zero, sum_lx / sum_l2, zero), odd


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
    for _ in range(RETRIES):
        changed = zero > zero
        for i in range(n):
            xi, w = load(x, LANES * i), load(weights, LANES * i)
            level = load(levels, LANES * i)
            lx = sum_lx - w * xi * level
            l2 = sum_l2 - w * level * level
            tried = (lx > zero) & (l2 > zero)
            wanted = xi * l2 / lx
            odd |= tried & ~nothing & is_odd(wanted)
            wanted = nearest(wanted)
            wanted = where(wanted > top, top, wanted)
            lx += w * xi * wanted
            l2 += w * wanted * wanted
            better = tried & (wanted != level) & (lx * lx * sum_l2 > sum_lx * sum_lx * l2)
            store(levels, LANES * i, where(better, wanted, level))
            sum_lx = where(better, lx, sum_lx)
            sum_l2 = where(better, l2, sum_l2)
            changed |= better
        if not any_lane(changed):
            break
    for i in range(n):
        store(levels, LANES * i, where(nothing, zero, load(levels, LANES * i)))
    scale = where(sum_l2 > zero, sum_lx / sum_l2, zero)
    return where(nothing, zero, scale), odd


@inline
def to_half(value):
    """The bits of a float32 as float16, rounded half to even: ggml_compute_fp32_to_fp16."""
    base = (abs(value) * F32(2.0**112)) * F32(2.0**-110)
    word = float_bits(value)
    shifted = np.uint32(word + word)
    bias = max(np.uint32(shifted & np.uint32(0xFF000000)), np.uint32(0x71000000))
    base = bits_float(np.uint32((bias >> np.uint32(1)) + np.uint32(0x07800000))) + base
    bits = float_bits(base)
    number = ((bits >> np.uint32(13)) & np.uint32(0x7C00)) + (bits & np.uint32(0x0FFF))
    if shifted > np.uint32(0xFF000000):
        number = np.uint32(0x7E00)
    return np.uint32(((word & np.uint32(0x80000000)) >> np.uint32(16)) | number)


@inline
def from_half(half):
    """The float32 of float16 bits: ggml_compute_fp16_to_fp32."""
    word = np.uint32(half << np.uint32(16))
    doubled = np.uint32(word + word)
    if doubled < np.uint32(1 << 27):
        small = bits_float(np.uint32((doubled >> np.uint32(17)) | np.uint32(126 << 23))) - HALF
        bits = float_bits(small)
    else:
        large = bits_float(np.uint32((doubled >> np.uint32(4)) + np.uint32(0xE0 << 23)))
        bits = float_bits(F32(large * F32(2.0**-112)))
    return bits_float(np.uint32((word & np.uint32(0x80000000)) | bits))


@inline
def put_half(out, at, half):
    """Two bytes, little-endian."""
    out[at] = np.uint8(half & np.uint32(255))
    out[at + 1] = np.uint8((half >> np.uint32(8)) & np.uint32(255))
