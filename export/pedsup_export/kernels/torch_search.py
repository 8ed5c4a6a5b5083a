"""The searches of `search.py` in torch: all blocks of a chunk side by side, on any device.

Weight i of every block is one row of a tensor [n, blocks], so that a C loop over a block's
weights is a loop over rows, and each operation in it one torch call. torch's elementwise float32
operations are IEEE's on the CPU and on CUDA, with three exceptions that this module avoids:
`torch.sqrt` (see `sqrt`), `scalar / tensor`, which multiplies by a reciprocal, and CUDA's
`tensor / scalar`, which does too unless the scalar is a power of two. Constants are therefore
tensors of no dimension on the device. Nothing may be fused: no `torch.compile`, no `addcmul`.

What the functions do, and where they come from, is told in `search.py` and `scales.py`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from pedsup_export.kernels.constants import GROUP_MAX_EPS, MAX_ROUNDED, RETRIES

if TYPE_CHECKING:
    from pedsup_export.kernels.constants import Steps

_ZERO: Final = 0.0


@lru_cache(maxsize=512)
def const(value: float, device: torch.device) -> Tensor:
    """A float32 of no dimension on the device."""
    return torch.tensor(value, dtype=torch.float32, device=device)


def is_odd(value: Tensor) -> Tensor:
    """Numbers that ggml's nearest_int does not round."""
    return ~(value.abs() <= float(MAX_ROUNDED))


def sqrt(value: Tensor) -> Tensor:
    """The correctly rounded float32 root: torch's own on the CPU is off by a bit in one of six.

    A root in float64 is never so near the middle of two float32 that rounding it goes wrong.
    """
    return torch.sqrt(value.to(torch.float64)).to(torch.float32)


def sum_in_order(terms: Tensor) -> Tensor:
    """The sum over dimension -2, one row after the other: torch.sum has an order of its own."""
    total = torch.zeros_like(terms[..., 0, :])
    for i in range(terms.shape[-2]):
        total += terms[..., i, :]
    return total


def _levels(x: Tensor, inverse: Tensor, low: float, high: float) -> Tensor:
    return torch.clamp(torch.round(inverse * x), low, high)


def search_scale_min(
    x: Tensor, weights: Tensor, nmax: int, steps: Steps, use_mad: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """`make_qkx2_quants`, `make_qkx3_quants`: scale, minus the minimum, odd; each [blocks]."""
    lowest, highest = x.amin(0), x.amax(0)
    sum_w, sum_x = sum_in_order(torch.stack([weights, weights * x]))
    minimum = torch.where(lowest > 0, _ZERO, lowest)

    def error(scale: Tensor, levels: Tensor, minimum: Tensor) -> Tensor:
        difference = (scale * levels).add_(minimum).sub_(x)
        difference = difference.abs_() if use_mad else difference * difference
        return sum_in_order(weights * difference)

    inverse = const(nmax, x.device) / (highest - minimum)
    odd = is_odd(inverse * (highest - minimum)) | is_odd(inverse * (lowest - minimum))
    scale = const(1, x.device) / inverse
    best = error(scale, _levels(x - minimum, inverse, 0, nmax), minimum)
    terms = torch.empty((3, *x.shape), dtype=x.dtype, device=x.device)
    for step in steps.tolist():
        inverse = const(step, x.device) / (highest - minimum)
        odd |= is_odd(inverse * (highest - minimum)) | is_odd(inverse * (lowest - minimum))
        levels = _levels(x - minimum, inverse, 0, nmax)
        torch.mul(weights, levels, out=terms[0])
        torch.mul(terms[0], levels, out=terms[1])
        torch.mul(terms[0], x, out=terms[2])
        sum_l, sum_l2, sum_xl = sum_in_order(terms)
        determinant = sum_w * sum_l2 - sum_l * sum_l
        this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        this_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        above = this_min > 0
        this_min = torch.where(above, _ZERO, this_min)
        this_scale = torch.where(above, sum_xl / sum_l2, this_scale)
        this_error = error(this_scale, levels, this_min)
        better = (determinant > 0) & (this_error < best)
        best = torch.where(better, this_error, best)
        scale = torch.where(better, this_scale, scale)
        minimum = torch.where(better, this_min, minimum)
    return scale, -minimum, odd


def extreme_weight(x: Tensor) -> tuple[Tensor, Tensor]:
    """The first weight of largest magnitude with its sign, and which blocks are (almost) zero."""
    largest = torch.zeros_like(x[0])
    extreme = torch.zeros_like(x[0])
    for row in x:
        larger = row.abs() > largest
        largest = torch.where(larger, row.abs(), largest)
        extreme = torch.where(larger, row, extreme)
    return extreme, largest < float(GROUP_MAX_EPS)


def search_scale(
    x: Tensor, weights: Tensor, nmax: int, steps: Steps
) -> tuple[Tensor, Tensor, Tensor]:
    """`make_qx_quants`: scale, the inverse scale that gives the levels, odd; each [blocks]."""
    extreme, odd = extreme_weight(x)
    weighted = weights * x
    terms = torch.empty((2, *x.shape), dtype=x.dtype, device=x.device)

    def sums(inverse: Tensor) -> Tensor:
        levels = _levels(x, inverse, -nmax, nmax - 1)
        torch.mul(weighted, levels, out=terms[0])
        torch.mul(weights, levels, out=terms[1]).mul_(levels)
        return sum_in_order(terms)

    chosen = const(-nmax, x.device) / extreme
    odd |= is_odd(chosen * extreme)
    sum_lx, sum_l2 = sums(chosen)
    scale = torch.where(sum_l2 != 0, sum_lx / sum_l2, _ZERO)
    best = scale * sum_lx
    for step in steps.tolist():
        inverse = const(-step, x.device) / extreme
        odd |= is_odd(inverse * extreme)
        sum_lx, sum_l2 = sums(inverse)
        better = (sum_l2 > 0) & (sum_lx * sum_lx > best * sum_l2)
        scale = torch.where(better, sum_lx / sum_l2, scale)
        best = torch.where(better, scale * sum_lx, best)
        chosen = torch.where(better, inverse, chosen)
    return scale, chosen, odd


def _move_levels(
    x: Tensor, weights: Tensor, levels: Tensor, bounds: tuple[int, int], sums: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Move single levels (in place) to where the fit gets better; both sums, and odd."""
    sum_lx, sum_l2 = sums
    odd = torch.zeros_like(sum_lx, dtype=torch.bool)
    for _ in range(RETRIES):
        for i in range(x.shape[0]):
            wx, level = weights[i] * x[i], levels[i].clone()
            lx = sum_lx - wx * level
            l2 = sum_l2 - weights[i] * level * level
            tried = lx > 0 if bounds[0] else (lx > 0) & (l2 > 0)
            wanted = x[i] * l2 / lx
            odd |= tried & is_odd(wanted)
            wanted = torch.clamp(torch.round(wanted), *bounds)
            lx += wx * wanted
            l2 += weights[i] * wanted * wanted
            better = tried & (wanted != level) & (lx * lx * sum_l2 > sum_lx * sum_lx * l2)
            if bounds[0]:
                better &= l2 > 0
            levels[i] = torch.where(better, wanted, level)
            sum_lx = torch.where(better, lx, sum_lx)
            sum_l2 = torch.where(better, l2, sum_l2)
    return sum_lx, sum_l2, odd


def search_scale_q3(x: Tensor, nmax: int) -> tuple[Tensor, Tensor]:
    """`make_q3_quants`: scale and odd, each [blocks]."""
    extreme, odd = extreme_weight(x)
    inverse = const(-nmax, x.device) / extreme
    odd |= is_odd(inverse * extreme)
    levels, weights = _levels(x, inverse, -nmax, nmax - 1), x * x
    sums = sum_in_order(torch.stack([weights * x * levels, weights * levels * levels]))
    sum_lx, sum_l2, bad = _move_levels(x, weights, levels, (-nmax, nmax - 1), sums)
    return torch.where(sum_l2 > 0, sum_lx / sum_l2, _ZERO), odd | bad


def scales_by_largest(values: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scales [n, super-blocks] to levels by the largest: their scale, the levels, odd."""
    largest = torch.where(values.amax(0) > 0, values.amax(0), _ZERO)  # never minus zero
    inverse = torch.where(largest > 0, const(top, values.device) / largest, _ZERO)
    wanted = inverse * values
    odd = (is_odd(wanted) | (wanted < 0)).any(0)
    return largest / const(top, values.device), torch.clamp(torch.round(wanted), max=top), odd


def quantize_scales(x: Tensor, weights: Tensor, nmax: int) -> tuple[Tensor, Tensor, Tensor]:
    """`make_qp_quants` on scales [n, super-blocks]: their scale, the levels, odd."""
    one, top = const(1, x.device), const(nmax, x.device)
    largest = torch.where(x.amax(0) > 0, x.amax(0), _ZERO)
    nothing = largest < float(GROUP_MAX_EPS)
    inverse = top / largest
    odd = ~(x >= 0).all(0) | (~nothing & is_odd(inverse * largest))
    difference = x - (one / inverse) * torch.round(inverse * x)
    best = sum_in_order(weights * difference * difference)
    for s in (-4, -3, -2, -1, 1, 2, 3, 4):
        this_inverse = (const(0.1, x.device) * const(s, x.device) + top) / largest
        levels = torch.clamp(torch.round(this_inverse * x), max=nmax)
        difference = x - (one / this_inverse) * levels
        error = sum_in_order(weights * difference * difference)
        better = error < best
        best = torch.where(better, error, best)
        inverse = torch.where(better, this_inverse, inverse)
    levels = torch.clamp(torch.round(inverse * x), max=nmax)
    sums = sum_in_order(torch.stack([weights * x * levels, weights * levels * levels]))
    sum_lx, sum_l2, bad = _move_levels(x, weights, levels, (0, nmax), sums)
    scale = torch.where((sum_l2 > 0) & ~nothing, sum_lx / sum_l2, _ZERO)
    return scale, torch.where(nothing, _ZERO, levels), odd | (bad & ~nothing)
