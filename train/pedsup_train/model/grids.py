"""ggml's rounding in torch: weights as they will be once the exporter has packed them.

`fit` finds the block scales of a matrix, `snap` rounds weights onto the grid that they span. The
two together give what `ggml_quantize_chunk` without importances packs and ggml unpacks. Sources:
`quantize_row_*_ref`, `make_qkx2_quants` and `make_qx_quants` of ggml-quants.c (llama.cpp
0c1e57098), with the same float32 operations in the same order: on a CPU the weights are equal bit
for bit (tested).

All of it works on float32 of any device, and without gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from pedsup.errors import UnsupportedError
from pedsup.gguf_file.ggml_types import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

GridType = Literal["Q4_0", "Q5_0", "Q8_0", "Q4_K", "Q6_K"]
GRID_TYPES: Final[tuple[GridType, ...]] = ("Q4_0", "Q5_0", "Q8_0", "Q4_K", "Q6_K")
CHUNK: Final = 1 << 24
"""Weights that `fit` searches at a time: its temporary tensors take about 20 times their bytes."""
EPSILON: Final = 1e-15
"""`GROUP_MAX_EPS`: a block whose largest magnitude is below is a block of zeros."""


@dataclass(frozen=True)
class Grid:
    """The values that the weights of a block may take: `scale * level - offset`."""

    kind: GridType
    scale: Tensor
    """float32 [n_blocks, 1], a block being 32 weights (16 in Q6_K); rows follow one another."""
    offset: Tensor | None = None
    """float32 [n_blocks, 1] of Q4_K, else None."""
    inverse: Tensor | None = None
    """float32 [n_blocks, 1]: by what Q4_0, Q5_0 and Q8_0 multiply before they round. It is not
    1 / scale: `scale` has been through float16."""


def refuse_no_grid(kind: str, n_per_row: int, where: str) -> GridType:
    """`kind` if it is a grid that rows of this length can have.

    Raises:
        UnsupportedError: training knows no such grid, or the exporter would not write it here.
    """
    found = next((name for name in GRID_TYPES if name == kind), None)
    if found is None:
        raise UnsupportedError(
            f"training has no grid for the tensor type {kind}",
            where=where,
            wanted=", ".join(GRID_TYPES),
            remedy='--set train.quantize="none", or a base with rows of a multiple of 32 weights',
        )
    block = BY_NAME[kind].block_size
    if n_per_row % block:
        raise UnsupportedError(
            f"rows of {n_per_row} weights cannot be {kind}",
            where=where,
            wanted=f"a multiple of {block}, as the exporter writes it",
        )
    return found


def fit(weights: Tensor, kind: GridType) -> Grid:
    """The grid that ggml chooses for these weights.

    Args:
        weights: float32 [n_rows, n_per_row]; n_per_row a multiple of the type's block size.
    """
    import torch

    block = BY_NAME[kind].block_size
    blocks = weights.detach().reshape(-1, block)
    with torch.no_grad(), torch.autocast(weights.device.type, enabled=False):
        parts = [_FIT[kind](part) for part in blocks.split(max(1, CHUNK // block))]
    if len(parts) == 1:
        return parts[0]
    return Grid(
        kind,
        torch.cat([part.scale for part in parts]),
        _joined([part.offset for part in parts]),
        _joined([part.inverse for part in parts]),
    )


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    import torch

    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None


def snap(weights: Tensor, grid: Grid) -> Tensor:
    """Each weight as the file's reader will see it: float32, in the shape of `weights`.

    The grid may be that of earlier weights; what lies outside takes the outermost level.
    """
    import torch

    low, high = _LEVELS[grid.kind]
    with torch.no_grad(), torch.autocast(weights.device.type, enabled=False):
        x = weights.detach().reshape(grid.scale.shape[0], -1)
        if grid.kind == "Q8_0":
            # C's roundf: halves away from zero.
            level = x * grid.inverse
            level = torch.trunc(level + torch.copysign(level.new_tensor(0.5), level))
        elif grid.inverse is not None:
            level = torch.floor(x * grid.inverse + (0.5 - low)) + low
        elif grid.offset is not None:
            level = torch.round((x + grid.offset) / grid.scale)
        else:
            level = torch.round(x / grid.scale)
        # A scale of 0 makes the level NaN or infinite, and its product must be 0.
        level = torch.nan_to_num(level, nan=0.0, posinf=high, neginf=low).clamp_(low, high)
        value = grid.scale * level
        if grid.offset is not None:
            value -= grid.offset
        return value.reshape(weights.shape)


_LEVELS: Final[dict[GridType, tuple[float, float]]] = {
    "Q4_0": (-8.0, 7.0),
    "Q5_0": (-16.0, 15.0),
    "Q8_0": (-127.0, 127.0),
    "Q4_K": (0.0, 15.0),
    "Q6_K": (-32.0, 31.0),
}


def _half(x: Tensor) -> Tensor:
    """Through float16, as the factors of a block are stored."""
    return x.half().float()


def _safe_inverse(x: Tensor) -> Tensor:
    import torch

    return torch.where(x == 0, 0.0, 1.0 / x)


def _extreme(x: Tensor) -> Tensor:
    """The first weight of largest magnitude of each block, with its sign."""
    return x.gather(-1, x.abs().argmax(-1, keepdim=True))


def _fit_signed(kind: GridType, lowest: float) -> Callable[[Tensor], Grid]:
    """Q4_0 and Q5_0: the weight of largest magnitude takes the lowest level."""

    def fit_blocks(x: Tensor) -> Grid:
        d = _extreme(x) / lowest
        return Grid(kind, _half(d), inverse=_safe_inverse(d))

    return fit_blocks


def _fit_q8_0(x: Tensor) -> Grid:
    d = x.abs().amax(-1, keepdim=True) / 127.0
    return Grid("Q8_0", _half(d), inverse=_safe_inverse(d))


def _fit_q4_k(x: Tensor) -> Grid:
    scale, minimum = _search_scale_and_minimum(x.reshape(-1, 32).T.contiguous())
    # [n super-blocks, 8]: six bits for each scale and minimum, by the largest of them.
    d, scale = _six_bits(scale.reshape(-1, 8))
    dmin, minimum = _six_bits(minimum.reshape(-1, 8))
    return Grid("Q4_K", (d * scale).reshape(-1, 1), (dmin * minimum).reshape(-1, 1))


def _six_bits(values: Tensor) -> tuple[Tensor, Tensor]:
    """The float16 factor [n, 1] and the levels 0..63 [n, 8] of scales or minima, none negative."""
    import torch

    largest = values.amax(-1, keepdim=True).clamp_min(0.0)
    inverse = torch.where(largest > 0, 63.0 / largest, 0.0)
    return _half(largest / 63.0), torch.round(inverse * values).clamp_(max=63.0)


def _total(terms: Tensor) -> Tensor:
    """The sum [n] of terms [m, n], added one after the other as C adds them.

    Several inverse scales often fit a block almost equally well, and the last bit of a sum then
    decides. With torch's own order of addition, 1 to 2 % of Q4_K's weights took another level.
    """
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _search_scale_and_minimum(x: Tensor) -> tuple[Tensor, Tensor]:
    """`make_qkx2_quants` for Q4_K: scale and minus the minimum of blocks x [32, n], both [n].

    21 inverse scales are tried. For each: levels, the weighted least-squares fit of scale and
    minimum to them, its error. The best minimum so far enters the next trial, as in C.
    """
    import torch

    top = 15.0
    weight = (_total(x * x) / 32.0).sqrt() + x.abs()
    lowest, highest = x.amin(0), x.amax(0)
    sum_w, sum_x = _total(weight), _total(weight * x)
    minimum = lowest.clamp(max=0.0)
    flat = highest == minimum
    inverse = top / (highest - minimum)
    scale = 1.0 / inverse
    level = torch.round(inverse * (x - minimum)).clamp_(0.0, top)
    best = _total(weight * (scale * level + minimum - x).square())
    for step in _steps(range(21), -1.0, x):
        inverse = (step + top) / (highest - minimum)
        level = torch.round(inverse * (x - minimum)).clamp_(0.0, top)
        weighted = weight * level
        sum_l, sum_l2, sum_xl = _total(weighted), _total(weighted * level), _total(weighted * x)
        determinant = sum_w * sum_l2 - sum_l * sum_l
        this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        this_minimum = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        above = this_minimum > 0
        this_scale = torch.where(above, sum_xl / sum_l2, this_scale)
        this_minimum = torch.where(above, 0.0, this_minimum)
        error = _total(weight * (this_scale * level + this_minimum - x).square())
        better = (determinant > 0) & (error < best)
        best = torch.where(better, error, best)
        scale = torch.where(better, this_scale, scale)
        minimum = torch.where(better, this_minimum, minimum)
    return torch.where(flat, 0.0, scale), -minimum


def _steps(numbers: Iterable[int], first: float, like: Tensor) -> Tensor:
    """`first + 0.1 * number` in float32 and in C's order of operations."""
    return first + like.new_tensor(0.1) * like.new_tensor(list(numbers))


def _fit_q6_k(x: Tensor) -> Grid:
    import torch

    scales = _search_scale(x.reshape(-1, 16).T.contiguous()).reshape(-1, 16)
    extreme = _extreme(scales)
    nothing = extreme.abs() < EPSILON
    inverse = torch.where(nothing, 0.0, -128.0 / extreme)
    d = _half(_safe_inverse(inverse))
    levels = torch.round(inverse * scales).clamp_(max=127.0)
    return Grid("Q6_K", (d * levels).reshape(-1, 1))


def _search_scale(x: Tensor) -> Tensor:
    """`make_qx_quants` for Q6_K, importances the squared weights: the scale [n] of x [16, n]."""
    import torch

    low, high = -32.0, 31.0
    extreme = x.gather(0, x.abs().argmax(0, keepdim=True))[0]
    nothing = extreme.abs() < EPSILON
    weight = x * x

    def sums(inverse: Tensor) -> tuple[Tensor, Tensor]:
        level = torch.round(inverse * x).clamp_(low, high)
        return _total(weight * x * level), _total(weight * level * level)

    sum_lx, sum_l2 = sums(low / extreme)
    scale = torch.where(sum_l2 != 0, sum_lx / sum_l2, 0.0)
    best = scale * sum_lx
    for step in _steps((s for s in range(-9, 10) if s), 32.0, x):
        sum_lx, sum_l2 = sums(-step / extreme)
        better = (sum_l2 > 0) & (sum_lx * sum_lx > best * sum_l2)
        scale = torch.where(better, sum_lx / sum_l2, scale)
        best = torch.where(better, scale * sum_lx, best)
    return torch.where(nothing, 0.0, scale)


_FIT: Final[dict[GridType, Callable[[Tensor], Grid]]] = {
    "Q4_0": _fit_signed("Q4_0", -8.0),
    "Q5_0": _fit_signed("Q5_0", -16.0),
    "Q8_0": _fit_q8_0,
    "Q4_K": _fit_q4_k,
    "Q6_K": _fit_q6_k,
}
