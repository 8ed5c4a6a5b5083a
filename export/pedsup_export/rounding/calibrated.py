"""The tensors of an export rounded with calibration statistics.

A matrix whose statistics hold second moments is rounded with error feedback. The table that is also
the output matrix is rounded for both uses: its moments are those of the last hidden state plus as
much of the identity, for the look-up. Other tables are packed by ggml's search with equal
importances, which minds the squared error and not the size of a weight. All else is llama.cpp's.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from pedsup.errors import MismatchError
from pedsup.gguf_file.ggml_types import BY_NAME, GGMLType
from pedsup_export.calibration import fingerprint, store
from pedsup_export.calibration.record import InputGroup, Record
from pedsup_export.calibration.store import Statistics
from pedsup_export.rounding.matrix import Effort, Moments, can_round, round_rows
from pedsup_export.types.quantize import quantize_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Packed = NDArray[np.uint8]

METHOD: Final = "gptq-kquant/1"
"""Raised when the same statistics would give other bytes."""
LOOKED_UP: Final = ("token_embd.weight", "per_layer_token_embd.weight")
_KEPT: Final = 3
"""Groups whose factored moments are kept: those of neighbouring matrices."""
_REMAKE: Final = "make them with this base and adapter: pedsup-export calibrate"


def other_weights(name: str, path: Path) -> MismatchError:
    """The error for statistics of other weights."""
    return MismatchError(
        f"the statistics were made of other weights of '{name}'",
        where=path,
        wanted="statistics of the very merge that is exported",
        remedy=_REMAKE,
    )


@dataclass
class Fingerprint:
    """The fingerprint of rows of a matrix, in the type that it was calibrated in."""

    record: Record
    name: str
    sum: int = 0

    def add(self, rows: Floats, first: int) -> None:
        """Take in rows `first`, ...: float32 [n, n_per_row]."""
        kind = BY_NAME[self.record.types[self.name]]
        share = fingerprint.of_rows(quantize_rows(rows, kind, name=self.name), first)
        self.sum = (self.sum + share) % fingerprint.MODULUS

    def __add__(self, other: Fingerprint) -> Fingerprint:
        return replace(self, sum=(self.sum + other.sum) % fingerprint.MODULUS)

    @property
    def fits(self) -> bool:
        """Whether they are all rows that the statistics were made of, and no others."""
        return fingerprint.text(self.sum) == self.record.fingerprints[self.name]


@dataclass
class _Progress:
    found: Fingerprint | None = None
    rows: dict[int, int] = field(default_factory=dict)
    """First row -> number of rows of each block."""


@dataclass
class Calibrated:
    """Statistics, and those of them in use; several threads may call its methods."""

    statistics: Statistics
    effort: Effort
    _moments: OrderedDict[str, list[Moments]] = field(default_factory=OrderedDict)
    _locks: dict[str, threading.Lock] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    identified: set[str] = field(default_factory=set)
    """Tensors that were compared whole before; their rows are not looked at again."""
    _seen: dict[str, _Progress] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, effort: Effort | None = None) -> Calibrated:
        """Read and check statistics.

        Raises:
            BadFileError: as `calibration.store.read`.
        """
        return cls(store.read(path), effort or Effort())

    def check(self, architecture: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse statistics of another model: its architecture, matrices or their widths.

        Args:
            shapes: of all tensors of the export, in ggml's order.

        Raises:
            MismatchError: the first difference.
        """
        record, path = self.statistics.record, self.statistics.path
        if record.architecture != architecture:
            raise MismatchError(
                f"the statistics are of a {record.architecture} model",
                where=path,
                wanted=f"statistics of this {architecture} model",
                remedy=_REMAKE,
            )
        for name, group in self.statistics.group_of.items():
            found = shapes.get(name)
            if found is None or found[0] != group.n_columns or name not in record.fingerprints:
                raise MismatchError(
                    f"the statistics have {group.n_columns} columns for '{name}'",
                    where=path,
                    wanted=f"{found[0]}" if found else "no such matrix: the export has none",
                    remedy=_REMAKE,
                )

    def pack(self, rows: Floats, kind: GGMLType, name: str, first: int, n_rows: int) -> Packed:
        """Pack rows `first`, ... of a tensor of `n_rows` rows.

        Raises:
            MismatchError: all rows were seen, and they are not those that were calibrated.
            NonFiniteError: as `quantize_rows`.
        """
        self.identify(rows, name, first, n_rows)
        shown = name if first == 0 else f"{name} from row {first} on"
        group = self.statistics.group_of.get(name)
        if group is not None and self.rounds(name, kind):
            return round_rows(rows, kind, self.moments(group), self.effort, shown)[0]
        return quantize_rows(rows, kind, self._importance(rows, name, group), name=shown)

    def rounds(self, name: str, kind: GGMLType) -> bool:
        """Whether this tensor gets error feedback in this type."""
        group = self.statistics.group_of.get(name)
        return (
            group is not None
            and group.run > 0
            and can_round(kind)
            and group.run % kind.block_size == 0
        )

    def moments(self, group: InputGroup) -> list[Moments]:
        """The factored second moments of a group's runs; the last few are kept."""
        with self._lock:
            lock = self._locks.setdefault(group.owner, threading.Lock())
        with lock:
            with self._lock:
                if group.owner in self._moments:
                    self._moments.move_to_end(group.owner)
                    return self._moments[group.owner]
            made = [self._factored(group, products) for products in self.statistics.products(group)]
            with self._lock:
                self._moments[group.owner] = made
                while len(self._moments) > _KEPT:
                    self._moments.popitem(last=False)
            return made

    def _factored(self, group: InputGroup, products: Floats) -> Moments:
        if group.owner in LOOKED_UP:
            # For the output matrix by its inputs, for the look-up by nothing but the weights.
            mean = max(float(np.mean(np.diag(products))), float(np.finfo(np.float32).tiny))
            products = products / np.float32(mean) + np.eye(len(products), dtype=np.float32)
        return Moments.factored(products)

    def _importance(self, rows: Floats, name: str, group: InputGroup | None) -> Floats | None:
        if group is not None and group.run:
            parts = [np.diag(products) for products in self.statistics.products(group)]
            return np.ascontiguousarray(np.concatenate(parts), np.float32)
        if name in LOOKED_UP:
            return np.ones(rows.shape[1], np.float32)
        return None

    def identify(self, rows: Floats, name: str, first: int, n_rows: int) -> None:
        """Compare rows with the statistics; all of a tensor's rows, in any order of blocks.

        Raises:
            MismatchError: as `pack`.
        """
        record = self.statistics.record
        if name not in record.fingerprints or name in self.identified:
            return
        part = Fingerprint(record, name)
        part.add(rows, first)
        with self._lock:
            progress = self._seen.setdefault(name, _Progress())
            if first in progress.rows or sum(progress.rows.values()) == n_rows:
                return  # the proof makes some rows again
            progress.rows[first] = len(rows)
            progress.found = part if progress.found is None else progress.found + part
            found = progress.found if sum(progress.rows.values()) == n_rows else None
        if found is not None and not found.fits:
            raise other_weights(name, self.statistics.path)

    def record(self, file_sha256: str) -> dict[str, object]:
        """For the manifest's recipe."""
        record = self.statistics.record
        return {
            "statistics": self.statistics.path.name,
            "sha256": file_sha256,
            "data_sha256": self.statistics.data_sha256,
            "method": METHOD,
            "effort": vars(self.effort),
            "texts": [dict(t) for t in record.texts],
            "tokens": record.tokens,
            "window": record.window,
            "made_with": dict(record.versions),
        }
