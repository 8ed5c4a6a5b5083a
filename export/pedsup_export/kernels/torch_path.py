"""Quantize with torch, on the GPU the adapter was trained on or on the CPU: the same bytes.

The layouts of the formats are drawn in `q45_k.py`, `q6_k.py`, `q3_k.py`, `q2_k.py`, `q4_0.py`
and `q8_0.py`. Blocks that those kernels call odd are odd here too: `quantize` reports them, and
`TorchKernel` lets ggml pack them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from pedsup.gguf_file.ggml_types import GGMLType
from pedsup_export.kernels import constants as c
from pedsup_export.kernels.constants import QK_K
from pedsup_export.kernels.odd_blocks import redo
from pedsup_export.kernels.torch_search import (
    const,
    extreme_weight,
    is_odd,
    quantize_scales,
    scales_by_largest,
    search_scale,
    search_scale_min,
    search_scale_q3,
    sqrt,
    sum_in_order,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

Packed = tuple[Tensor, Tensor]
"""uint8 [blocks, bytes of a block] and the odd blocks, bool [blocks]."""
CHUNK: Final = {"cpu": 1 << 20, "cuda": 1 << 25}
"""Weights at a time: what the caches hold, and enough to keep a GPU busy."""


def _blocks(x: Tensor, width: int) -> Tensor:
    """[super-blocks, 256] to [width, 256 / width * super-blocks]: weight i of every block."""
    return x.view(len(x), -1, width).permute(2, 1, 0).reshape(width, -1).contiguous()


def _weights(x: Tensor, importance: Tensor, sigma2: Tensor, width: int) -> Tensor:
    """`importance * sqrt(sigma2 + x * x)`, in blocks as x; sigma2 is [super-blocks]."""
    return _blocks(importance * sqrt(sigma2[:, None] + x * x), width)


def _sigma2(x: Tensor, factor: float) -> Tensor:
    """`factor * sum of squares / 256` of each super-block; exact, as both are powers of two."""
    total = sum_in_order((x * x).t().contiguous())
    return total * factor / float(QK_K)


def _shift(bits: Tensor, by: tuple[int, ...]) -> Tensor:
    """Combine dimension 2 of [n, m, len(by), ...] by shifting: bytes [n, m, ...]."""
    total = torch.zeros_like(bits[:, :, 0])
    for i, shift in enumerate(by):
        total |= bits[:, :, i] << shift
    return total


def _half(value: Tensor) -> tuple[Tensor, Tensor]:
    """float16 bytes [n, 2] of float32 [n], and the value that they stand for."""
    half = value.to(torch.float16)
    return half.view(torch.uint8).view(-1, 2), half.to(torch.float32)


def _final(
    x: Tensor, scale: Tensor, offset: Tensor | None, bounds: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Levels above `bounds[0]`, uint8 [super-blocks, 256], and odd; scale is [super-blocks, n]."""
    blocks = x.view(*scale.shape, -1)
    if offset is not None:
        blocks = blocks + offset[:, :, None]
    value = blocks / scale[:, :, None]
    odd = is_odd(value).any(2).any(1) | (scale == 0).any(1)
    levels = torch.clamp(torch.round(value), *bounds) - bounds[0]
    return torch.nan_to_num(levels).to(torch.uint8).view(len(x), QK_K), odd


def _scale_min_blocks(
    x: Tensor, importance: Tensor | None, width: int, nmax: int, steps: c.Steps, top: int
) -> tuple[Tensor, ...]:
    """The part that Q4_K, Q5_K and Q2_K share: d, dmin, both levels [super-blocks, n], odd."""
    blocks = _blocks(x, width)
    use_mad = False
    if importance is not None:
        weights = _weights(x, importance, _sigma2(x, 1 if width == 16 else 2), width)
    elif width == 16:
        weights, use_mad = blocks.abs(), True
    else:
        mean = sqrt(sum_in_order(blocks * blocks) / 32.0)
        weights = mean + blocks.abs()
    found = search_scale_min(blocks, weights, nmax, steps, use_mad)
    scales, minima, odd = (t.view(-1, len(x)) for t in found)
    if importance is None:
        d, s, bad_s = scales_by_largest(scales, top)
        dmin, m, bad_m = scales_by_largest(minima, top)
    else:
        sums = sum_in_order(weights).view(-1, len(x))
        d, s, bad_s = quantize_scales(scales, sums, top)
        dmin, m, bad_m = quantize_scales(minima, sums, top)
    return d, dmin, s.t(), m.t(), odd.any(0) | bad_s | bad_m


def _bytes(levels: Tensor) -> Tensor:
    """Levels as uint8; what is no number belongs to an odd block."""
    return torch.nan_to_num(levels).to(torch.uint8)


def _q45_k(x: Tensor, importance: Tensor | None, nmax: int, steps: c.Steps) -> Packed:
    d, dmin, s, m, odd = _scale_min_blocks(x, importance, 32, nmax, steps, 63)
    (half_d, d), (half_min, dmin) = _half(d), _half(dmin)
    levels, bad = _final(x, d[:, None] * s, dmin[:, None] * m, (0, nmax))
    s, m = _bytes(s), _bytes(m)
    packed_scales = [
        s[:, :4] | ((s[:, 4:] >> 4) << 6),
        m[:, :4] | ((m[:, 4:] >> 4) << 6),
        (s[:, 4:] & 15) | ((m[:, 4:] & 15) << 4),
    ]
    quants = _shift((levels & 15).view(len(x), 4, 2, 32), (0, 4)).view(len(x), 128)
    high = []
    if nmax > 15:
        high = [_shift((levels >> 4).view(len(x), 1, 8, 32), tuple(range(8))).view(len(x), 32)]
    return torch.cat([half_d, half_min, *packed_scales, *high, quants], 1), odd | bad


def _two_bits(levels: Tensor) -> Tensor:
    """Four 2-bit levels to a byte, as Q2_K, Q3_K and the high bits of Q6_K have them."""
    return _shift(levels.view(len(levels), 2, 4, 32), (0, 2, 4, 6)).view(len(levels), 64)


def _q2_k(x: Tensor, importance: Tensor | None) -> Packed:
    steps = c.STEPS_Q2_K if importance is None else c.STEPS_Q2_K_WEIGHTED
    d, dmin, s, m, odd = _scale_min_blocks(x, importance, 16, 3, steps, 15)
    (half_d, d), (half_min, dmin) = _half(d), _half(dmin)
    levels, bad = _final(x, d[:, None] * s, dmin[:, None] * m, (0, 3))
    scales = _bytes(s) | (_bytes(m) << 4)
    return torch.cat([scales, _two_bits(levels), half_d, half_min], 1), odd | bad


def _q3_k(x: Tensor, importance: Tensor | None) -> Packed:
    blocks = _blocks(x, 16)
    if importance is None:
        scales, odd = (t.view(16, len(x)) for t in search_scale_q3(blocks, 4))
        inverse = const(-32, x.device) / extreme_weight(scales)[0]
        d, bad = const(1, x.device) / inverse, torch.zeros_like(inverse, dtype=torch.bool)
    else:
        weights = _weights(x, importance, _sigma2(x, 2), 16)
        found = search_scale(blocks, weights, 4, c.STEPS_Q3_K)
        scales, odd = found[0].view(16, -1), found[2].view(16, -1)
        sums = sum_in_order(weights).view(16, -1)
        d, inverse, bad = search_scale(scales, sums, 32, c.STEPS_Q3_K_SCALES)
    wanted = inverse * scales
    odd = (odd | is_odd(wanted)).any(0) | bad
    s = torch.clamp(torch.round(wanted), -32, 31).t()
    half, d = _half(d)
    levels, bad = _final(x, d[:, None] * s, None, (-4, 3))
    s = _bytes(s + 32)
    low = (s[:, :8] & 15) | ((s[:, 8:] & 15) << 4)
    high = _shift((s >> 4).view(len(x), 1, 4, 4), (0, 2, 4, 6)).view(len(x), 4)
    mask = _shift((levels >> 2).view(len(x), 1, 8, 32), tuple(range(8))).view(len(x), 32)
    return torch.cat([mask, _two_bits(levels & 3), low, high, half], 1), odd | bad


def _q6_k(x: Tensor, importance: Tensor | None) -> Packed:
    blocks = _blocks(x, 16)
    weights = blocks * blocks if importance is None else _blocks(importance.expand_as(x), 16)
    found = search_scale(blocks, weights, 32, c.STEPS_Q6_K)
    scales, odd = found[0].view(16, -1), found[2].view(16, -1).any(0)
    inverse = const(-128, x.device) / extreme_weight(scales)[0]
    wanted = inverse * scales
    odd |= is_odd(wanted).any(0)
    s = torch.clamp(torch.round(wanted), max=127).t()
    half, d = _half(const(1, x.device) / inverse)
    levels, bad = _final(x, d[:, None] * s, None, (-32, 31))
    low = (levels & 15).view(len(x), 2, 2, 2, 32)
    quants = (low[:, :, 0] | (low[:, :, 1] << 4)).view(len(x), 128)
    octets = torch.nan_to_num(s).to(torch.int8).contiguous().view(torch.uint8)
    return torch.cat([quants, _two_bits(levels >> 4), octets, half], 1), odd | bad


def _q8_0(x: Tensor, _importance: Tensor | None) -> Packed:
    d = x.abs().amax(1) / const(127, x.device)
    inverse = torch.where(d != 0, const(1, x.device) / d, 0.0)
    value = x * inverse[:, None]
    # roundf: halves go away from zero. Adding the float below 0.5 keeps 0.49999997 down.
    away = torch.trunc(value + torch.copysign(const(0.49999997, x.device), value))
    octets = torch.nan_to_num(away, 0, 0, 0).to(torch.int8).view(torch.uint8)
    return torch.cat([_half(d)[0], octets], 1), is_odd(value).any(1)


def _q4_0(x: Tensor, importance: Tensor | None) -> Packed:
    """Here x is [blocks, 32], and importance is already multiplied by the row's root."""
    blocks = x.t().contiguous()
    if importance is None:
        d = extreme_weight(blocks)[0] / -8.0
        inverse = torch.where(d != 0, const(1, x.device) / d, 0.0)
        value = x * inverse[:, None]
        odd = is_odd(value).any(1)
        levels = torch.clamp(torch.trunc(value + 8.5), max=15)
    else:
        d, inverse, odd = search_scale(blocks, importance.t().contiguous(), 8, c.STEPS_Q4_0)
        levels = torch.clamp(torch.round(inverse[:, None] * x), -8, 7) + 8
    nibbles = torch.nan_to_num(levels, 0, 0, 0).to(torch.uint8).view(len(x), 1, 2, 16)
    return torch.cat([_half(d)[0], _shift(nibbles, (0, 4)).view(len(x), 16)], 1), odd


def _q4_k(x: Tensor, importance: Tensor | None) -> Packed:
    return _q45_k(x, importance, 15, c.STEPS_Q4_K if importance is None else c.STEPS_Q4_K_WEIGHTED)


def _q5_k(x: Tensor, importance: Tensor | None) -> Packed:
    return _q45_k(x, importance, 31, c.STEPS_Q5_K if importance is None else c.STEPS_Q5_K_WEIGHTED)


_PACK: Final[dict[str, Callable[[Tensor, Tensor | None], Packed]]] = {
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "Q3_K": _q3_k,
    "Q2_K": _q2_k,
    "Q4_0": _q4_0,
    "Q8_0": _q8_0,
}


@torch.inference_mode()
def quantize(rows: Tensor, kind: GGMLType, importance: Tensor | None) -> Packed:
    """Pack rows on their device.

    Args:
        rows: float32 [n, n_per_row], contiguous.
        kind: one of the seven types of `_PACK`.
        importance: float32 [n_per_row] on the same device, or None.

    Returns:
        uint8 [n, row_bytes], and bool [n, blocks per row]: the blocks that ggml must pack.
    """
    n_rows, n_per_row = rows.shape
    per_row = n_per_row // kind.block_size
    step = max(1, CHUNK.get(rows.device.type, CHUNK["cuda"]) // n_per_row)
    packed, odd = [], []
    for start in range(0, n_rows, step):
        part = rows[start : start + step]
        weights = None
        if importance is not None and kind.name == "Q4_0":
            # Q4_0 looks at the whole row; the other types at the super-block.
            squares = sum_in_order((part * part).t().contiguous())
            sigma2 = squares / const(n_per_row, rows.device)
            weights = importance * sqrt(sigma2[:, None] + part * part)
        elif importance is not None:
            weights = importance.expand_as(part)
        if weights is not None:
            weights = weights.reshape(-1, kind.block_size)
        octets, flags = _PACK[kind.name](part.reshape(-1, kind.block_size), weights)
        packed.append(octets.view(len(part), -1))
        odd.append(flags.view(len(part), per_row))
    return torch.cat(packed), torch.cat(odd)


@dataclass(frozen=True)
class TorchKernel:
    """A quantizer with numpy arrays outside and torch inside."""

    kind: GGMLType
    weighted: bool
    device: str

    def quantize_into(
        self,
        rows: NDArray[np.float32],
        kind: GGMLType,
        importance: NDArray[np.float32] | None,
        out: NDArray[np.uint8],
    ) -> None:
        """As `ggml.quantize_into`, with the same bytes."""
        if not len(rows):
            return
        weights = importance if self.weighted else None
        on_device = None if weights is None else torch.tensor(weights, device=self.device)
        packed, odd = quantize(torch.tensor(rows, device=self.device), kind, on_device)
        out[:] = packed.cpu().numpy()
        redo(rows, kind, weights, out, odd.view(-1).cpu().numpy())
