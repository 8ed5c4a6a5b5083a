"""The float32 rows of an output tensor: read, merge the adapter, put rotary halves in order."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pedsup_export.adapter.lora import MergedSource, interleaved
from pedsup_export.plan.export_plan import Inputs, TensorPlan
from pedsup_export.source.floats import RoundTo
from pedsup_export.source.tensor_source import RowSource, whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.float32]


def blocks(tensor: TensorPlan) -> Iterator[tuple[int, int]]:
    """Row ranges [lo, hi) of a tensor, the same whatever the number of threads."""
    for lo in range(0, tensor.n_rows, tensor.rows_per_block):
        yield lo, min(lo + tensor.rows_per_block, tensor.n_rows)


_local = threading.local()


def _scratch(shape: tuple[int, ...]) -> Rows:
    """A float32 buffer that the calling thread keeps: fresh pages for each block cost more than
    the arithmetic on them.
    """
    size = math.prod(shape)
    buffer: Rows | None = getattr(_local, "buffer", None)
    if buffer is None or buffer.size < size:
        buffer = _local.buffer = np.empty(size, np.float32)
    return buffer[:size].reshape(shape)


def final_rows(
    tensor: TensorPlan, inputs: Inputs, lo: int, hi: int, merge_dtype: RoundTo | None
) -> Rows:
    """Rows lo to hi in the GGUF's order, float32 [hi - lo, n_per_row].

    The array is valid until the calling thread asks for the next rows.

    Args:
        merge_dtype: they are as they are quantized: with the adapter, rounded to it. None: they
            are the base's.
    """
    n_per_row = tensor.slot.shape[0]
    if tensor.origin.values is not None:
        return np.ascontiguousarray(tensor.origin.values.reshape(-1, n_per_row)[lo:hi])
    assert tensor.origin.source is not None
    source: RowSource = inputs.checkpoint.tensors[tensor.origin.source]
    is_matrix = len(source.shape) > 1
    if merge_dtype is not None:
        change = inputs.matches.matched.get(tensor.origin.source) if inputs.matches else None
        # A 16-bit intermediate file keeps vectors and norms in float32.
        plain = not is_matrix or tensor.slot.name.endswith("_norm.weight")
        source = MergedSource(source, change, "float32" if plain else merge_dtype)
    if tensor.origin.arrange is not None:
        made = tensor.origin.arrange(whole(source)).reshape(-1, n_per_row)
        return np.ascontiguousarray(made[lo:hi], np.float32)
    if not is_matrix:
        values = source.rows(0, source.shape[0] if source.shape else 1)
        values = values + np.float32(tensor.origin.shift) if tensor.origin.shift else values
        return interleaved(values.reshape(-1, 1), tensor.origin.head_rows).reshape(1, -1)
    shape = (hi - lo, *source.shape[1:])
    if tensor.origin.kept_rows is not None:
        return picked_rows(source, tensor.origin.kept_rows, lo, hi, _scratch(shape))
    return interleaved(source.rows(lo, hi, _scratch(shape)), tensor.origin.head_rows)


def picked_rows(source: RowSource, kept: NDArray[np.int64], lo: int, hi: int, out: Rows) -> Rows:
    """The kept rows number `lo` to `hi` of a source.

    The rows between them are read along, from behind the last one before `lo`: the digest of the
    input takes every byte, in order.

    Args:
        kept: int64, ascending: the source's rows that the tensor has.
        out: float32 [hi - lo, ...], filled and returned.
    """
    end = int(kept[hi - 1]) + 1
    for at in range(int(kept[lo - 1]) + 1 if lo else 0, end, len(out)):
        to = min(at + len(out), end)
        first, last = np.searchsorted(kept[lo:hi], (at, to))
        out[first:last] = source.rows(at, to)[kept[lo + first : lo + last] - at]
    return out
