"""What writing an adapter as a file of its own will do: each matrix and both its halves."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from pedsup.gguf_file.architecture import EMBEDDING
from pedsup.gguf_file.lora import A, B
from pedsup_export.adapter.base_file import BaseFile
from pedsup_export.adapter.folder import Adapter
from pedsup_export.adapter.lora import interleaved
from pedsup_export.adapter.match import UnusedDelta
from pedsup_export.adapter.tensors import LoraDelta
from pedsup_export.gguf.header import KV, TensorSlot, header_bytes
from pedsup_export.plan.provenance import Digests
from pedsup_export.source.floats import Float32Array
from pedsup_export.source.hub import ModelRef
from pedsup_export.types.quantize import quantize_rows


@dataclass(frozen=True)
class AdapterFileRequest:
    """One adapter file.

    Attributes:
        bases: the GGUF files that it will run beside; the first names the model.
        kind: F16, F32 or Q8_0.
    """

    adapter: ModelRef
    bases: tuple[Path, ...]
    out: Path
    kind: str = "F16"
    allow_unused: bool = False
    force: bool = False
    name: str | None = None
    license: str | None = None


@dataclass(frozen=True)
class Change:
    """One matrix's change."""

    target: str
    """The base file's tensor."""
    delta: LoraDelta = field(repr=False)
    head_rows: int | None
    factor: float
    """What `lora_b` is multiplied by, so that the file's one alpha gives this module's scaling."""

    def halves(self) -> dict[str, Float32Array]:
        """Both matrices as they stand in the file, float32, row-major, by their names."""
        a, b = self.delta.a, self.delta.b
        if self.factor != 1:
            b = b * np.float32(self.factor)
        b = interleaved(b, self.head_rows)
        if self.target == EMBEDDING:
            # A row is looked up in the one, and multiplied by the other.
            a, b = b, np.ascontiguousarray(a.T)
        return {f"{self.target}{A}": a, f"{self.target}{B}": b}


@dataclass(frozen=True)
class AdapterFilePlan:
    """Everything that writing the file will do. Sizes in bytes."""

    request: AdapterFileRequest
    adapter: Adapter = field(repr=False)
    bases: tuple[BaseFile, ...]
    changes: tuple[Change, ...]
    alpha: float
    slots: tuple[TensorSlot, ...] = field(repr=False)
    metadata: tuple[KV, ...] = field(repr=False)
    unused: tuple[UnusedDelta, ...]
    warnings: tuple[str, ...]
    sources: Digests
    """SHA-256 of the adapter's files."""

    @cached_property
    def header(self) -> bytes:
        """The GGUF's header; its digest of the manifest is still blank."""
        return header_bytes(self.metadata, self.slots)

    @property
    def output_bytes(self) -> int:
        return len(self.header) + self.slots[-1].offset + self.slots[-1].n_bytes

    @property
    def ranks(self) -> list[int]:
        return sorted({change.delta.rank for change in self.changes})

    def packed(self, change: Change) -> dict[str, np.ndarray]:
        """The packed rows of both halves by name, uint8 [rows, row_bytes]."""
        kinds = {slot.name: slot.type for slot in self.slots}
        halves = change.halves()
        return {n: quantize_rows(np.ascontiguousarray(v), kinds[n], name=n)
                for n, v in halves.items()}  # fmt: skip
