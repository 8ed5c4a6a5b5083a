"""Base rows with the adapter's change in them, bit for bit as PEFT's merge on a CPU has them.

PEFT (`tuners/lora/layer.py`, `get_delta_weight` and `merge`) computes, all in float32,

    W + (B A) * scaling        one product, one multiplication, one addition, each rounded

An element of B A is a sum of r products. Every BLAS that matters here (OpenBLAS in numpy, MKL
in torch) adds them in the order k = 0, 1, .. r-1 with fused multiply-adds, whatever the size
of the block, so that rows can be computed apart and still be PEFT's bits. Where that ends:

- above r = 192 MKL splits the sum, above 320 OpenBLAS does: the last bit may differ;
- below 16 columns or 4 rows torch leaves MKL and rounds the products: toy models only;
- one row alone goes to another BLAS routine that sums in another order. `_product` never asks
  for fewer than `_MIN_ROWS` rows where the matrix has them, and always for the same ones.

The measurements are in tests/export/test_merge.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from pedsup.errors import MismatchError
from pedsup_export.adapter.match import TensorChange
from pedsup_export.adapter.tensors import LoraDelta
from pedsup_export.source.floats import Float32Array, RoundTo, round_to
from pedsup_export.source.tensor_source import RowSource

_MIN_ROWS: Final = 16
_BLOCK: Final = 1 << 18
"""Elements of B A formed at a time (1 MiB): it stays in the L2 cache until it is added."""


@dataclass(frozen=True)
class MergedSource:
    """The tensor to export: a base tensor, the adapter's change, the rounding of the merged weight.

    Attributes:
        change: what the adapter does to it (`MatchReport.matched`), or None.
        merge_dtype: 'float32' keeps the exact float32 merge. 'bfloat16' and 'float16' round the
            merged weight as a 16-bit intermediate file does: the bits of a PEFT merge in
            float32 written by `convert_hf_to_gguf.py --outtype bf16` (f16), and of a PEFT merge
            into a base loaded in that dtype with the adapter in float32, as PEFT loads it.
            The converter keeps one-dimensional tensors in float32: leave it at 'float32' there.
    """

    base: RowSource
    change: TensorChange | None
    merge_dtype: RoundTo = "float32"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    def rows(self, lo: int, hi: int, out: Float32Array | None = None) -> Float32Array:
        """Merged rows `lo` to `hi` (exclusive) as float32 [hi - lo, ...]."""
        change = self.change or TensorChange()
        result = (change.replacement or self.base).rows(lo, hi, out)
        if change.lora is not None:
            _add_delta(result, change.lora, lo)
        if change.tokens is not None:
            for token, row in zip(change.tokens.indices, change.tokens.rows, strict=True):
                if lo <= token < hi:
                    result[token - lo] = row
        return round_to(result, self.merge_dtype)


def rows_at_once(n_in: int) -> int:
    """Rows of B A that one product gives: products begin at multiples of it.

    So a row goes through the same call of the BLAS whatever block it is asked for in, and has the
    same bits: the proof makes a few rows again and compares them exactly.
    """
    return max(_MIN_ROWS, _BLOCK // n_in // _MIN_ROWS * _MIN_ROWS)


def _add_delta(weight: Float32Array, lora: LoraDelta, first_row: int) -> None:
    """Add rows of the delta to `weight` in place; with DoRA rescale the sum, too."""
    scaling = np.float32(lora.scaling)
    step, stop = rows_at_once(lora.a.shape[1]), first_row + len(weight)
    for start in range(first_row - first_row % step, stop, step):
        lo, hi = max(start, first_row), min(start + step, stop)
        part = weight[lo - first_row : hi - first_row]
        delta = _product(lora, start, step)[lo - start : hi - start]
        delta *= scaling
        if lora.magnitude is None:
            part += delta
        else:
            _dora(part, delta, lora.magnitude[lo:hi], lora.module)


def _product(lora: LoraDelta, start: int, step: int) -> Float32Array:
    """`step` rows of B A from `start` on, fewer at the end, computed among at least `_MIN_ROWS`."""
    first = max(0, min(start, len(lora.b) - _MIN_ROWS))
    return (lora.b[first : start + step] @ lora.a)[start - first :]


def _dora(weight: Float32Array, delta: Float32Array, magnitude: Float32Array, module: str) -> None:
    """m * (W + delta) / |W + delta|, the norm of each row; Liu et al., DoRA, eq. 5.

    https://arxiv.org/abs/2402.09353. The norm is summed in float64 and rounded once: torch's
    float32 sum differs from it in the last bits, so this is close to PEFT's, not equal.

    Raises:
        MismatchError: a row of W + delta is zero and has no direction to scale.
    """
    weight += delta
    norm = np.sqrt(np.einsum("ij,ij->i", weight, weight, dtype=np.float64)).astype(np.float32)
    if not norm.all():
        raise MismatchError(
            f"DoRA cannot scale '{module}': a row of the merged weight is zero",
            wanted="the base that the adapter was trained on",
            remedy="check that base and adapter belong together",
        )
    weight *= (magnitude / norm)[:, None]


def interleaved(rows: Float32Array, head_rows: int | None) -> Float32Array:
    """Rows of llama's q and k: transformers keeps the rotary halves apart, llama.cpp in pairs.

    Row (half, i) of a head becomes row (i, half): `LlamaModel.permute` in conversion/llama.py.

    Args:
        rows: [n, columns].
        head_rows: rows of one head; None leaves the rows in their order.
    """
    if head_rows is None:
        return np.ascontiguousarray(rows)
    halves = rows.reshape(-1, 2, head_rows // 2, rows.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))
