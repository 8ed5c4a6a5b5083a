"""Proof that the adapter is in the file: is what was written nearer to the merged weight?

For sampled rows of an adapted tensor let b be the base weight, m the merged weight, q what the
file dequantizes to. The *share* <q - b, m - b> / |m - b|^2 is 1 when the adapter is in the file
and 0 when it is not, give or take the quantization error, and it is above 1/2 exactly when q is
nearer to m than to b.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pedsup.errors import MismatchError
from pedsup_export.floats import RoundTo
from pedsup_export.plan import ExportPlan, Inputs, TensorPlan
from pedsup_export.quantize import dequantize_rows
from pedsup_export.rows import base_rows, final_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLED_ROWS = 64
NEARER = 0.5


@dataclass(frozen=True)
class AdapterShare:
    """The result for one tensor."""

    name: str
    share: float
    """1 when the adapter is in the file, 0 when it is not."""
    n_rows: int

    @property
    def present(self) -> bool:
        return self.share > NEARER


def prove_adapter(plan: ExportPlan, inputs: Inputs, file: Path, data_offset: int) -> list[
    AdapterShare
]:  # fmt: skip
    """Measure the adapter's share in every adapted tensor of a written file.

    Raises:
        MismatchError: a tensor is nearer to the base than to the merge.
    """
    data = np.memmap(file, np.uint8, "r", offset=0)
    shares = [
        adapter_share(tensor, inputs, data, data_offset, plan.request.merge_dtype)
        for tensor in plan.tensors
        if tensor.adapted
    ]
    absent = [s for s in shares if not s.present]
    if absent:
        listed = ", ".join(f"{s.name} ({s.share:.2f})" for s in absent[:5])
        raise MismatchError(
            f"{len(absent)} of {len(shares)} adapted tensors are nearer to the base than to the "
            f"merge: {listed}",
            where=file,
            wanted="a share above 0.5 (1 is the whole adapter)",
            remedy="the adapter's change is rounded away here (a base that was quantized once lies "
            "on the old grid): give these tensors more bits, e.g. --tensor-type 'ffn_down=Q6_K', "
            "or export from a base in its original precision",
        )
    return shares


def adapter_share(
    tensor: TensorPlan,
    inputs: Inputs,
    data: NDArray[np.uint8],
    data_offset: int,
    merge_dtype: RoundTo,
) -> AdapterShare:
    """The adapter's share in evenly spaced rows; in all rows when a sample says too little."""
    group = tensor.origin.head_rows or 1
    few = _sample(tensor.n_rows, group, max(1, SAMPLED_ROWS // group))
    for ranges in (few, _sample(tensor.n_rows, group, tensor.n_rows // group or 1)):
        along = total = 0.0
        for lo, hi in ranges:
            base = base_rows(tensor, inputs, lo, hi).astype(np.float64)
            merged = final_rows(tensor, inputs, lo, hi, merge_dtype).astype(np.float64)
            delta = merged - base
            written = _written(tensor, data, data_offset, lo, hi).astype(np.float64)
            along += float(np.vdot(written - base, delta))
            total += float(np.vdot(delta, delta))
        share = along / total if total else 1.0
        if share > NEARER:
            break
    return AdapterShare(tensor.slot.name, share, sum(hi - lo for lo, hi in ranges))


def _sample(n_rows: int, group: int, count: int) -> list[tuple[int, int]]:
    """`count` evenly spaced ranges of `group` rows."""
    n_groups = max(1, n_rows // group)
    picks = sorted({int(i) for i in np.linspace(0, n_groups - 1, min(count, n_groups))})
    return [(i * group, min((i + 1) * group, n_rows)) for i in picks]


def _written(
    tensor: TensorPlan, data: NDArray[np.uint8], data_offset: int, lo: int, hi: int
) -> NDArray[np.float32]:
    n_per_row = tensor.slot.shape[0]
    row_bytes = tensor.slot.type.row_bytes(n_per_row)
    start = data_offset + tensor.slot.offset + lo * row_bytes
    packed = np.array(data[start : start + (hi - lo) * row_bytes]).reshape(hi - lo, row_bytes)
    return dequantize_rows(packed, tensor.slot.type, n_per_row)
