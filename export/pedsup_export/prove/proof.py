"""Proof that a file is what base and adapter give: sampled rows made again and compared.

Two questions about sampled rows of each tensor:

- Are their packed bytes those that these inputs give? They are read, merged and quantized again
  and must be equal, byte for byte. This tells the adapter from one that is only like it.
- Did the adapter survive the rounding? Let b be the base weight, m the merged weight, q what the
  file dequantizes to. The *share* <q - b, m - b> / |m - b|^2 is 1 when the adapter is in the file
  and 0 when it is not, give or take the quantization error, and it is above 1/2 exactly when q is
  nearer to m than to b.

The packed rows are taken as the file is written, or read for its digests anyway: the proof needs no
reading of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pedsup.errors import MismatchError
from pedsup.files.direct_io import DirectFile
from pedsup.gguf_file import GGUFHeader
from pedsup.progress import say
from pedsup_export.gguf.header import TensorSlot
from pedsup_export.plan.export_plan import ExportPlan, Inputs, TensorPlan
from pedsup_export.plan.rows import final_rows
from pedsup_export.types.quantize import dequantize_rows, quantize_on_grid, quantize_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Packed = NDArray[np.uint8]
    Rows = NDArray[np.float32]

ReadRows = Callable[[TensorPlan, int, int], "Packed"]
"""Packed rows lo to hi of a tensor of the written file, uint8 [hi - lo, row_bytes]."""
SAMPLED_RANGES = 4
SAMPLED_ROWS = 16
"""Rows of one range, or the rows of an attention head where those belong together."""
SAMPLED_TOKENS = 16
"""Of the token rows that an adapter replaces."""
NEARER = 0.5
Range = tuple[int, int]


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


class Sample:
    """Some rows of a tensor, collected from its packed bytes as they pass by.

    Attributes:
        ranges: the rows [lo, hi) of each part.
    """

    def __init__(self, tensor: TensorPlan, inputs: Inputs) -> None:
        self.tensor = tensor
        self.ranges = sampled_ranges(tensor, inputs)
        self._row_bytes = tensor.slot.type.row_bytes(tensor.slot.shape[0])
        self._parts = [bytearray((hi - lo) * self._row_bytes) for lo, hi in self.ranges]

    def take(self, at: int, octets: memoryview) -> None:
        """Keep what is sampled of the tensor's bytes from position `at` on."""
        for (lo, hi), part in zip(self.ranges, self._parts, strict=True):
            first = lo * self._row_bytes
            begin = max(at, first)
            end = min(at + len(octets), hi * self._row_bytes)
            if begin < end:
                part[begin - first : end - first] = octets[begin - at : end - at]

    def rows(self) -> list[Packed]:
        """The packed rows of each range, uint8 [hi - lo, row_bytes]."""
        return [np.frombuffer(part, np.uint8).reshape(-1, self._row_bytes) for part in self._parts]


def sampled_ranges(tensor: TensorPlan, inputs: Inputs) -> list[Range]:
    """Evenly spaced ranges of rows, the first and the last among them; and replaced token rows."""
    group = tensor.origin.head_rows or SAMPLED_ROWS
    ranges = _spread(tensor.n_rows, group, SAMPLED_RANGES)
    source = tensor.origin.source
    change = inputs.matches.matched.get(source) if inputs.matches and source else None
    if change is not None and change.tokens is not None:
        tokens = [t for t in change.tokens.indices if t < tensor.n_rows]
        step = max(1, len(tokens) // SAMPLED_TOKENS)
        ranges += [(token, token + 1) for token in tokens[::step]]
    return ranges


def _spread(n_rows: int, group: int, count: int) -> list[Range]:
    """`count` evenly spaced ranges of `group` rows, aligned to it."""
    n_groups = -(-n_rows // group)
    picks = sorted({int(i) for i in np.linspace(0, n_groups - 1, min(count, n_groups))})
    return [(i * group, min((i + 1) * group, n_rows)) for i in picks]


def row_reader(file: DirectFile, data_start: int) -> ReadRows:
    """Reads a file's packed rows; its tensors' offsets count from `data_start`."""

    def read(tensor: TensorPlan, lo: int, hi: int) -> Packed:
        row_bytes = tensor.slot.type.row_bytes(tensor.slot.shape[0])
        begin = data_start + tensor.slot.offset + lo * row_bytes
        octets = bytes(file.read(begin, (hi - lo) * row_bytes))
        return np.frombuffer(octets, np.uint8).reshape(hi - lo, row_bytes)

    return read


@dataclass(frozen=True)
class Proof:
    """What the proof needs to know; `prove` is called for one tensor at a time, by any thread.

    Attributes:
        exact: whether packed bytes are compared. Without the importance matrix that the file was
            made with they cannot be.
    """

    plan: ExportPlan
    inputs: Inputs
    read: ReadRows
    exact: bool = True

    def prove(self, sample: Sample) -> AdapterShare | None:
        """Check a tensor's sampled rows; the adapter's share if the adapter changes the tensor.

        A change below the last bit of every weight changes nothing.

        Raises:
            MismatchError: the packed bytes are not those that the inputs give.
        """
        tensor = sample.tensor
        if self.exact:
            self._compare(sample)
        if not tensor.adapted:
            return None
        found = self._share(tensor, sample.ranges, sample.rows())
        if found is None or not found.present:  # the sample says too little: all rows
            group = tensor.origin.head_rows or SAMPLED_ROWS
            ranges = _spread(tensor.n_rows, group, tensor.n_rows)
            found = self._share(tensor, ranges, (self.read(tensor, lo, hi) for lo, hi in ranges))
        return found

    def _compare(self, sample: Sample) -> None:
        tensor, kind = sample.tensor, sample.tensor.slot.type
        different = total = 0
        for (lo, hi), written in zip(sample.ranges, sample.rows(), strict=True):
            again = make_rows(tensor, self.inputs, self.plan, lo, hi)
            blocks = (again != written).reshape(-1, kind.type_size)
            different += int(np.count_nonzero(blocks.any(axis=1)))
            total += len(blocks)
        if different:
            raise MismatchError(
                f"{different} of {total} sampled blocks of '{tensor.slot.name}' are not what base "
                "and adapter give",
                wanted="the same bytes when these rows are made again",
                remedy="give the base, the adapter and the --imatrix or --calibrated that the file "
                "was made with; if you did, export it again",
            )

    def _share(
        self, tensor: TensorPlan, ranges: Sequence[Range], packed: Iterable[Packed]
    ) -> AdapterShare | None:
        """None where no weight changes: nothing could show that the adapter is there."""
        along = total = 0.0
        for (lo, hi), part in zip(ranges, packed, strict=True):
            base = final_rows(tensor, self.inputs, lo, hi, None).astype(np.float64)
            merge_dtype = self.plan.request.merge_dtype
            delta = final_rows(tensor, self.inputs, lo, hi, merge_dtype).astype(np.float64) - base
            written = dequantize_rows(part, tensor.slot.type, tensor.slot.shape[0])
            along += float(np.vdot(written.astype(np.float64) - base, delta))
            total += float(np.vdot(delta, delta))
        n_rows = sum(hi - lo for lo, hi in ranges)
        return AdapterShare(tensor.slot.name, along / total, n_rows) if total else None


def as_written(tensors: Sequence[TensorPlan], header: GGUFHeader) -> tuple[TensorPlan, ...]:
    """The planned tensors with the types and offsets of a file, which others may have chosen."""
    return tuple(
        replace(t, slot=TensorSlot(i.name, i.shape, i.type, i.offset, i.n_bytes))
        for t, i in zip(tensors, header.tensors.values(), strict=True)
    )


def make_rows(tensor: TensorPlan, inputs: Inputs, plan: ExportPlan, lo: int, hi: int) -> Packed:
    """Packed rows lo to hi of an output tensor, uint8 [hi - lo, row_bytes]: the export's work."""
    rows = final_rows(tensor, inputs, lo, hi, plan.request.merge_dtype)
    if tensor.in_projector:
        return _projector_rows(rows, tensor)
    if tensor.on_grid and tensor.slot.type.name == "Q4_0":
        return quantize_on_grid(rows, tensor.source_dtype, tensor.slot.name)
    if inputs.calibrated is not None:
        slot = tensor.slot
        return inputs.calibrated.pack(rows, slot.type, slot.name, lo, tensor.n_rows)
    importance = None
    if inputs.imatrix is not None:
        importance = inputs.imatrix.for_tensor(tensor.slot.name, tensor.slot.shape)
    # A message counts rows from the block's first one.
    name = tensor.slot.name if lo == 0 else f"{tensor.slot.name} from row {lo} on"
    return quantize_rows(rows, tensor.slot.type, importance, name=name)


def _projector_rows(rows: Rows, tensor: TensorPlan) -> Packed:
    if tensor.origin.may_be_infinite and not np.isnan(rows).any():
        return np.ascontiguousarray(rows, "<f4").view(np.uint8)
    return quantize_rows(rows, tensor.slot.type, name=tensor.slot.name)


def require_effect(plan: ExportPlan, shares: Sequence[AdapterShare]) -> None:
    """Refuse an adapter whose change is below the last bit of every weight of every tensor.

    Raises:
        MismatchError: the merge is the base.
    """
    adapted = sum(t.adapted for t in plan.all_tensors)
    if not adapted or plan.request.allow_no_effect:
        return
    if not shares:
        raise MismatchError(
            "the adapter changes nothing: its change of all "
            f"{adapted} tensors is too small to alter any weight",
            where=plan.request.adapter.folder if plan.request.adapter else None,
            wanted="a trained adapter with a scaling that is not near zero",
            remedy="check lora_alpha and alpha_pattern in adapter_config.json, and that this is "
            "the adapter after training; --allow-no-effect exports the base unchanged",
        )
    if len(shares) < adapted:
        say(f"warning: the adapter's change of {adapted - len(shares)} of {adapted} tensors is "
            "too small to alter any weight")  # fmt: skip


def require_present(shares: Sequence[AdapterShare], file: Path) -> None:
    """Refuse a file in which the adapter's change is rounded away.

    Raises:
        MismatchError: a tensor is nearer to the base than to the merge.
    """
    absent = [s for s in shares if not s.present]
    if not absent:
        return
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
