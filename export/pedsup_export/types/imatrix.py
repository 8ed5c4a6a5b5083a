"""Importance matrices: llama.cpp's GGUF imatrix, as llama-quantize reads it.

`llama-imatrix` sums the squared activations that enter each matrix, column by column:

    <tensor>.in_sum2  F32 [n_per_row, n_matrices]
    <tensor>.counts   F32 [1, n_matrices]

and the importance of a column is `in_sum2 / counts`, or 1 for a matrix that saw no token.
Source: common/imatrix-loader.cpp and load_imatrix in tools/quantize/quantize.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from pedsup.errors import BadFileError, MismatchError, UnsupportedError
from pedsup.gguf_file import ArrayValue, GGUFHeader, read_header
from pedsup.gguf_file.header import MAGIC

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUMS: Final = ".in_sum2"
COUNTS: Final = ".counts"
_REMAKE: Final = "make it again: llama-imatrix -m MODEL -f TEXT --output-format gguf -o FILE"
_METADATA: Final = ("imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")
TOKEN_EMBEDDINGS: Final = ("token_embd.weight", "per_layer_token_embd.weight")


@dataclass(frozen=True)
class ImatrixReport:
    """How an importance matrix fits a model; nothing in it is skipped silently."""

    used: tuple[str, ...]
    missing: tuple[str, ...]
    """Tensors without an entry: quantized as if there were no importance matrix."""
    ignored: tuple[str, ...]
    """Token embeddings whose entry has another size: llama.cpp ignores those."""
    unused: tuple[str, ...]
    """Entries for tensors that are not quantized or not in the model."""


@dataclass(frozen=True)
class Imatrix:
    """Importances by tensor name; each float32 [n_matrices * n_per_row], finite."""

    path: Path
    importances: Mapping[str, NDArray[np.float32]]
    datasets: tuple[str, ...]
    chunk_count: int

    def for_tensor(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
        """The importances for a tensor (shape in ggml order), or None when it has no entry.

        Raises:
            MismatchError: the entry has another length than the tensor's rows.
        """
        found = self.importances.get(name)
        wanted = shape[0] * (shape[2] if len(shape) > 2 else 1)
        if found is None or found.size == wanted:
            return found
        if name in TOKEN_EMBEDDINGS:
            return None
        raise MismatchError(
            f"the importance matrix has {found.size} values for '{name}'",
            where=self.path,
            wanted=f"{wanted} values: one for each column",
            remedy="use an importance matrix that was made with this model",
        )

    def report(self, quantized: Mapping[str, tuple[int, ...]]) -> ImatrixReport:
        """Compare with the tensors that will be quantized (name to shape in ggml order).

        Raises:
            MismatchError: as `for_tensor`.
        """
        found = {n for n, shape in quantized.items() if self.for_tensor(n, shape) is not None}
        listed = set(self.importances)
        return ImatrixReport(
            used=_sorted(found),
            missing=_sorted(set(quantized) - listed),
            ignored=_sorted((set(quantized) & listed) - found),
            unused=_sorted(listed - set(quantized)),
        )

    def metadata(self) -> dict[str, str | int]:
        """The `quantize.imatrix.*` keys that llama-quantize adds (integers are uint32)."""
        # llama-quantize copies into 128 bytes with a final zero.
        values: dict[str, str | int] = {"quantize.imatrix.file": _cut(str(self.path))}
        if self.datasets:
            values["quantize.imatrix.dataset"] = _cut(self.datasets[0])
        values["quantize.imatrix.entries_count"] = len(self.importances)
        if self.chunk_count > 0:
            values["quantize.imatrix.chunks_count"] = self.chunk_count
        return values


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names))


def _cut(text: str) -> str:
    return text.encode()[:127].decode(errors="ignore")


def read_imatrix(path: str | Path) -> Imatrix:
    """Read llama.cpp's GGUF importance matrix.

    Raises:
        UnsupportedError: the old `.dat` format.
        BadFileError: damaged, incomplete, or with values that are not finite.
    """
    path = Path(path)
    if path.is_file() and path.stat().st_size:
        with path.open("rb") as file:
            if file.read(4) != MAGIC:
                raise UnsupportedError(
                    "this is not a GGUF importance matrix (the older .dat format?)",
                    where=path,
                    wanted="the GGUF format that llama-imatrix writes since 2025",
                    remedy=f"convert it: llama-imatrix --in-file {path.name} "
                    "--output-format gguf -o imatrix.gguf",
                )
    header = read_header(path)
    datasets = _datasets(header)
    data = np.memmap(path, np.uint8, "r") if header.tensors else np.empty(0, np.uint8)
    names = sorted({_stem(name) for name in header.tensors} - {""})
    if not names:
        raise _bad(header, "the importance matrix has no entry")
    importances = {name: _importance(header, data, name) for name in names}
    return Imatrix(
        path=path,
        importances=importances,
        datasets=datasets,
        chunk_count=_as_int(header.metadata["imatrix.chunk_count"]),
    )


def _datasets(header: GGUFHeader) -> tuple[str, ...]:
    """The names of the texts; the metadata is checked."""
    missing = [key for key in _METADATA if key not in header.metadata]
    if missing:
        raise _bad(header, f"the metadata lacks {', '.join(missing)}")
    datasets = header.metadata["imatrix.datasets"]
    if not isinstance(datasets, ArrayValue):
        raise _bad(header, "imatrix.datasets is not a list of names")
    return tuple(map(str, datasets.values()))


def _as_int(value: object) -> int:
    return value if isinstance(value, int) else 0


def _bad(header: GGUFHeader, found: str) -> BadFileError:
    return BadFileError(
        found, where=header.path, wanted="llama-imatrix's GGUF output", remedy=_REMAKE
    )


def _stem(name: str) -> str:
    """The tensor that an entry belongs to; other tensors in the file are not ours."""
    for suffix in (SUMS, COUNTS):
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return ""


def _importance(header: GGUFHeader, data: NDArray[np.uint8], name: str) -> NDArray[np.float32]:
    """in_sum2 / counts in float32, as load_imatrix; float32 [n_matrices * n_per_row]."""
    sums = _values(header, data, name + SUMS)
    counts = _values(header, data, name + COUNTS)
    if sums.size % counts.size:
        raise _bad(header, f"'{name}' has {sums.size} sums for {counts.size} counts")
    if not (np.isfinite(sums).all() and np.isfinite(counts).all()):
        raise _bad(header, f"the entry of '{name}' holds NaN or Inf")
    # std::lround rounds halves away from zero, then the count becomes a float again.
    whole = np.array([math.copysign(math.floor(abs(c) + 0.5), c) for c in counts.tolist()])
    divisor = whole.astype(np.float32)[:, None]
    table = sums.reshape(counts.size, -1)
    seen = divisor > 0
    with np.errstate(over="ignore"):
        means = np.where(seen, table / np.where(seen, divisor, np.float32(1)), np.float32(1))
    result = np.ascontiguousarray(means.reshape(-1), np.float32)
    if not np.isfinite(result).all():
        raise _bad(header, f"the importances of '{name}' overflow")
    return result


def _values(header: GGUFHeader, data: NDArray[np.uint8], name: str) -> NDArray[np.float32]:
    info = header.tensors.get(name)
    if info is None:
        raise _bad(header, f"'{name}' is missing: sums and counts come in pairs")
    if info.type.name != "F32":
        raise _bad(header, f"'{name}' is of type {info.type.name}, not F32")
    start = header.data_offset + info.offset
    return data[start : start + info.n_bytes].view("<f4").astype(np.float32)
