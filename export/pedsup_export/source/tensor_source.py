"""What every tensor of a base looks like to the exporter: a name, a shape, float32 rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pedsup.errors import UnsupportedError
from pedsup_export.source.floats import Float32Array, to_float32
from pedsup_export.source.safetensors_file import SafetensorsFile
from pedsup_export.source.safetensors_header import TensorEntry


class RowSource(Protocol):
    """What can be read by rows (slices of its first axis; a scalar is one row)."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def rows(self, lo: int, hi: int, out: Float32Array | None = None) -> Float32Array:
        """Rows `lo` to `hi` (exclusive) as float32 [hi - lo, ...] that the caller may change.

        No page of the file stays mapped afterwards. `out`, contiguous
        float32 of that shape, is filled instead of a new array: about three times faster.
        """
        ...


class TensorSource(RowSource, Protocol):
    """A tensor of a checkpoint."""

    @property
    def name(self) -> str: ...
    @property
    def dtype_name(self) -> str:
        """How it is stored: a safetensors dtype, or NF4, FP4."""
        ...


def n_rows(source: RowSource) -> int:
    """Length of the first axis; 1 for a scalar."""
    return source.shape[0] if source.shape else 1


def whole(source: RowSource) -> Float32Array:
    """A small tensor at once, in its own shape (a scalar has shape ())."""
    return source.rows(0, n_rows(source)).reshape(source.shape)


@dataclass(frozen=True)
class PlainSource:
    """A tensor stored as floating-point numbers."""

    file: SafetensorsFile
    entry: TensorEntry

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.entry.shape

    @property
    def dtype_name(self) -> str:
        return self.entry.dtype

    def rows(self, lo: int, hi: int, out: Float32Array | None = None) -> Float32Array:
        """See `TensorSource.rows`; exact for BF16, F16 and F32.

        Raises:
            UnsupportedError: the elements are integers or 8-bit floats.
        """
        if self.entry.dtype not in ("BF16", "F16", "F32", "F64"):
            raise UnsupportedError(
                f"elements of type {self.entry.dtype}",
                where=f"{self.file.path}: {self.name}",
                wanted="BF16, F16 or F32, or the 4-bit layout of bitsandbytes",
                remedy="export from the bf16 checkpoint of this model",
            )
        return to_float32(self.file.read_entry(self.entry, lo, hi), self.entry.dtype, out)


@dataclass(frozen=True)
class ResizedSource:
    """A table with more rows, which are zeros behind its own, or without its last ones."""

    source: TensorSource
    n: int
    """Rows of the result."""

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def dtype_name(self) -> str:
        return self.source.dtype_name

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.n, *self.source.shape[1:])

    def rows(self, lo: int, hi: int, out: Float32Array | None = None) -> Float32Array:
        """See `TensorSource.rows`."""
        there = self._own(hi) - self._own(lo)
        if there == hi - lo:
            return self.source.rows(lo, hi, out)
        if out is None:
            out = np.empty((hi - lo, *self.shape[1:]), np.float32)
        if there:
            out[:there] = self.source.rows(lo, lo + there)
        out[there:] = 0
        return out

    def _own(self, row: int) -> int:
        return min(row, n_rows(self.source))


def equal(a: RowSource, b: RowSource) -> bool:
    """Whether two tensors hold the same numbers; reads until the first difference."""
    if a.shape != b.shape:
        return False
    step = max(1, (1 << 20) // max(1, math.prod(a.shape[1:])))
    for lo in range(0, n_rows(a), step):
        hi = min(lo + step, n_rows(a))
        if not np.array_equal(a.rows(lo, hi), b.rows(lo, hi)):
            return False
    return True
