"""What an export will do: every tensor, where it comes from, what it becomes. Printable."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

import pedsup
from pedsup.gguf_file.architecture import EMBEDDING
from pedsup.gguf_file.file_types import FileType
from pedsup.gguf_file.shape import PER_LAYER_TABLE
from pedsup.gguf_file.type_mixture import TypeChoice
from pedsup.trust.manifest import MMPROJ_KEY
from pedsup_export.adapter.folder import Adapter
from pedsup_export.adapter.match import MatchReport, UnusedDelta
from pedsup_export.arch import Dropped, OutputTensor
from pedsup_export.gguf.header import KV, TensorSlot, header_bytes, mixture, string
from pedsup_export.plan.general import DIGEST_PLACEHOLDER
from pedsup_export.plan.provenance import Digests
from pedsup_export.plan.qat import Grid
from pedsup_export.plan.request import ExportRequest
from pedsup_export.rounding.calibrated import Calibrated
from pedsup_export.source.checkpoint import Checkpoint
from pedsup_export.types.imatrix import Imatrix, ImatrixReport
from pedsup_export.vocabulary_cut.cut import VocabularyCut


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of the output."""

    slot: TensorSlot
    origin: OutputTensor
    choice: TypeChoice
    source_dtype: str
    adapted: bool
    rows_per_block: int
    on_grid: bool = False
    """Whether its weights lie on a Q4_0 grid, which Q4_0 then keeps exactly."""
    in_projector: bool = False
    """Of the projector file: no importances and no statistics are for it."""

    @property
    def n_rows(self) -> int:
        """Rows of the tensor as a matrix of `slot.shape[0]` columns."""
        return int(np.prod(self.slot.shape[1:], dtype=np.int64))


@dataclass(frozen=True)
class Calibration:
    """Statistics that the rounding uses, and what was chosen with them."""

    identity: str
    """Digest of the statistics' data and of the method."""
    file: Path
    rounded: int
    """Tensors that get error feedback."""
    predicted_kl: float | None = None
    """Of types chosen for a budget: nats per token."""
    predicted_share: float | None = None
    """That, over what is predicted of llama.cpp's own types for `--quant`."""


@dataclass(frozen=True)
class ProjectorPlan:
    """The file beside the model that holds its towers."""

    path: Path
    kind: str
    """Type of its matrices."""
    metadata: tuple[KV, ...] = field(repr=False)
    tensors: tuple[TensorPlan, ...] = field(repr=False)
    vision: bool
    audio: bool
    memory_bytes: int = 0
    """That it will take on the phone, with one picture."""

    @cached_property
    def header(self) -> bytes:
        """The GGUF's header; its origin is still blank."""
        return self.header_for(DIGEST_PLACEHOLDER)

    def header_for(self, origin: str) -> bytes:
        """The header with what the towers come from (`projector_origin`)."""
        entries = [string(MMPROJ_KEY, origin) if e.key == MMPROJ_KEY else e for e in self.metadata]
        return header_bytes(entries, [t.slot for t in self.tensors])

    @property
    def output_bytes(self) -> int:
        """Size of the file."""
        last = self.tensors[-1].slot
        return len(self.header) + last.offset + last.n_bytes

    def facts(self) -> dict[str, object]:
        """What it is, for the manifest and for programs."""
        return {"name": self.path.name, "quant": self.kind, "vision": self.vision,
                "audio": self.audio}  # fmt: skip


@dataclass(frozen=True)
class ExportPlan:
    """Everything an export will do. Sizes in bytes."""

    request: ExportRequest
    architecture: str
    file_type: FileType
    metadata: tuple[KV, ...] = field(repr=False)
    tensors: tuple[TensorPlan, ...] = field(repr=False)
    dropped: tuple[Dropped, ...]
    unused: tuple[UnusedDelta, ...]
    imatrix: ImatrixReport | None
    warnings: tuple[str, ...]
    input_bytes: int
    output_bytes: int
    memory_bytes: int
    """Expected peak beside the mapped input."""
    sources: Digests
    """SHA-256 of the files that were read whole for this plan; those of the shards come with the
    pass that merges them."""
    cut: VocabularyCut | None = None

    calibration: Calibration | None = None
    grid: Grid = field(default_factory=Grid)
    """Whether the base comes from quantization-aware training."""
    projector: ProjectorPlan | None = None

    @property
    def all_tensors(self) -> tuple[TensorPlan, ...]:
        """Those of the model, then those of its projector."""
        return (*self.tensors, *(self.projector.tensors if self.projector else ()))

    @property
    def all_bytes(self) -> int:
        """Size of both files."""
        return self.output_bytes + (self.projector.output_bytes if self.projector else 0)

    @property
    def slots(self) -> list[TensorSlot]:
        return [t.slot for t in self.tensors]

    @property
    def looked_up(self) -> set[str]:
        """The tables of which a few rows are read for each token: they cost storage, not time.

        The token table is one only where the output matrix is another tensor.
        """
        names = {t.slot.name for t in self.tensors}
        return names & {PER_LAYER_TABLE, *((EMBEDDING,) if "output.weight" in names else ())}

    @property
    def read_per_token(self) -> int:
        """Bytes of weights: all but the tables that are only looked up."""
        looked_up = self.looked_up
        return sum(slot.n_bytes for slot in self.slots if slot.name not in looked_up)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all that decides the output's bytes but the shards' contents."""
        request = self.request
        facts: list[object] = [
            pedsup.__version__,
            {role: sorted(files.values()) for role, files in sorted(self.sources.items())},
            request.merge_base,
            request.merge_dtype,
            self.input_bytes,
            self.calibration.identity if self.calibration else None,
        ]
        if exact := self.exact:
            facts.append(exact)
        text = hashlib.sha256(json.dumps(facts).encode())
        text.update(self.header)
        if self.projector is not None:
            text.update(self.projector.header)
        return text.hexdigest()

    @property
    def exact(self) -> list[str]:
        """Tensors whose bytes are the base's own grid."""
        return [t.slot.name for t in self.tensors if t.on_grid and t.slot.type.name == "Q4_0"]

    @cached_property
    def header(self) -> bytes:
        """The GGUF's header; its digest of the manifest is still blank."""
        return header_bytes(self.metadata, self.slots)

    def mixture(self) -> dict[str, dict[str, int]]:
        """Type name -> how many tensors and bytes."""
        return mixture(self.slots)


@dataclass(frozen=True)
class Inputs:
    """The opened inputs that a plan was made from; the writer reads them."""

    checkpoint: Checkpoint
    adapter: Adapter | None
    matches: MatchReport | None
    imatrix: Imatrix | None
    calibrated: Calibrated | None = None
