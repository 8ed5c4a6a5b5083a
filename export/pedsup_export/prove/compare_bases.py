"""How far a 4-bit base is from its 16-bit original: per tensor and over the whole model.

A QLoRA adapter was trained on the dequantized 4-bit weights; exported onto the 16-bit base it
meets slightly different ones. This is the size of that difference.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import inf, prod, sqrt
from typing import Any, Final

import numpy as np

from pedsup_export.adapter.match import find
from pedsup_export.source.checkpoint import Checkpoint
from pedsup_export.source.floats import Float32Array
from pedsup_export.source.tensor_source import TensorSource, n_rows

_BLOCK: Final = 1 << 22
"""Elements read at a time."""
_CHUNK: Final = 1 << 15
"""Elements summed at a time in float64: they stay in the L2 cache."""
_FLOATS: Final = ("BF16", "F16", "F32", "F64", "NF4", "FP4")


@dataclass
class _Sums:
    """Float64 sums from which every figure follows."""

    reference: float = 0.0
    other: float = 0.0
    product: float = 0.0
    difference: float = 0.0
    max_abs: float = 0.0
    n: int = 0

    def add(self, reference: Float32Array, other: Float32Array) -> None:
        a_flat, b_flat = reference.reshape(-1), other.reshape(-1)
        for at in range(0, a_flat.size, _CHUNK):
            a = a_flat[at : at + _CHUNK].astype(np.float64)
            b = b_flat[at : at + _CHUNK].astype(np.float64)
            self.reference += float(a @ a)
            self.other += float(b @ b)
            self.product += float(a @ b)
            a -= b
            self.difference += float(a @ a)
            # NaN compares false: np.maximum keeps it, Python's max would lose it.
            self.max_abs = float(np.maximum(self.max_abs, np.abs(a, out=a).max()))
        self.n += a_flat.size

    def include(self, other: _Sums) -> None:
        self.reference += other.reference
        self.other += other.other
        self.product += other.product
        self.difference += other.difference
        self.max_abs = float(np.maximum(self.max_abs, other.max_abs))
        self.n += other.n

    def figures(self) -> Difference:
        if self.reference > 0:
            relative = sqrt(self.difference / self.reference)
        else:
            relative = inf if self.difference else 0.0
        norms = sqrt(self.reference) * sqrt(self.other)
        cosine = self.product / norms if norms else float(self.reference == self.other)
        return Difference(relative, self.max_abs, cosine, self.n)


@dataclass(frozen=True)
class Difference:
    """Distance of two tensors (or models) A, the reference, and B.

    Attributes:
        relative: |A - B| / |A| in the Frobenius norm.
        max_abs: largest |a - b| of one element.
        cosine: <A, B> / (|A| |B|).
        n: number of weights.
    """

    relative: float
    max_abs: float
    cosine: float
    n: int


@dataclass(frozen=True)
class TensorDifference:
    """One tensor of both bases; `name` as the reference has it."""

    name: str
    shape: tuple[int, ...]
    reference_dtype: str
    other_dtype: str
    difference: Difference


@dataclass(frozen=True)
class BaseComparison:
    """The result of `compare_bases`.

    Attributes:
        tensors: those in both, in the order of the reference.
        total: all of `tensors` taken as one vector.
        quantized: only those that are stored differently in the two.
        only_in_reference, only_in_other: names that have no partner.
        not_compared: names with the reason (shapes differ, no floating-point numbers).
    """

    tensors: tuple[TensorDifference, ...]
    total: Difference
    quantized: Difference
    only_in_reference: tuple[str, ...]
    only_in_other: tuple[str, ...]
    not_compared: tuple[tuple[str, str], ...]

    def as_dict(self) -> dict[str, object]:
        """The same as JSON values; an infinite figure becomes null."""
        return dict(_finite(asdict(self)))

    def table(self) -> str:
        """Lines of text, the largest relative differences first."""
        ranked = sorted(self.tensors, key=lambda t: -t.difference.relative)
        rows = [("tensor", "stored", "relative", "max |a-b|", "cosine")]
        rows += [
            (t.name, f"{t.reference_dtype} / {t.other_dtype}", *_texts(t.difference))
            for t in ranked
        ]
        rows.append(("stored differently, together", "", *_texts(self.quantized)))
        rows.append(("all tensors, together", "", *_texts(self.total)))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = [
            "  ".join(
                cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(pairs)
            )
            for pairs in (list(zip(row, widths, strict=True)) for row in rows)
        ]
        for title, names in (
            ("only in the reference", self.only_in_reference),
            ("only in the other", self.only_in_other),
            ("not compared", tuple(f"{name} ({why})" for name, why in self.not_compared)),
        ):
            lines += [f"{title}: {name}" for name in names]
        return "\n".join(line.rstrip() for line in lines)


def _texts(d: Difference) -> tuple[str, str, str]:
    return f"{d.relative:.3e}", f"{d.max_abs:.3e}", f"{d.cosine:.6f}"


def _finite(value: object) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def compare_bases(reference: Checkpoint, other: Checkpoint) -> BaseComparison:
    """Compare two checkpoints of one model, streamed by row blocks."""
    left = dict(other.tensors)
    total, quantized = _Sums(), _Sums()
    tensors, alone, skipped = [], [], []
    for name, source in reference.tensors.items():
        partner = left.pop(find(name, left) or "", None)
        if partner is None:
            alone.append(name)
        elif why := _incomparable(source, partner):
            skipped.append((name, why))
        else:
            sums = _sums(source, partner)
            total.include(sums)
            if source.dtype_name != partner.dtype_name:
                quantized.include(sums)
            dtypes = source.dtype_name, partner.dtype_name
            tensors.append(TensorDifference(name, source.shape, *dtypes, sums.figures()))
    return BaseComparison(
        tuple(tensors),
        total.figures(),
        quantized.figures(),
        tuple(alone),
        tuple(left),
        tuple(skipped),
    )


def _incomparable(source: TensorSource, partner: TensorSource) -> str | None:
    if source.shape != partner.shape:
        return f"shapes {list(source.shape)} and {list(partner.shape)}"
    if source.dtype_name not in _FLOATS or partner.dtype_name not in _FLOATS:
        return f"{source.dtype_name} and {partner.dtype_name} are not both floating-point"
    return None


def _sums(source: TensorSource, partner: TensorSource) -> _Sums:
    sums, n = _Sums(), n_rows(source)
    step = max(1, _BLOCK // max(1, prod(source.shape[1:])))
    for lo in range(0, n, step):
        hi = min(lo + step, n)
        sums.add(source.rows(lo, hi), partner.rows(lo, hi))
    return sums
