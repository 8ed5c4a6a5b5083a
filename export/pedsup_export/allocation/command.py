"""From a budget, or a saved choice, to a type for every tensor of an export."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import numpy as np

from pedsup.errors import (
    BadFileError,
    MismatchError,
    MissingFileError,
    OutputError,
    PedsupError,
    UsageError,
)
from pedsup.files.checks import Check, Count
from pedsup.files.fsio import atomic_file
from pedsup.files.records import json_record
from pedsup.files.source import Source, read_json_object
from pedsup.gguf_file.ggml_types import BY_NAME
from pedsup.progress import say
from pedsup_export.allocation.budget import Budget
from pedsup_export.allocation.choose import (
    SMALL_BLOCK_TYPES,
    TYPES,
    Allocation,
    Option,
    allocate,
)
from pedsup_export.calibration.sensitivity import ACTIVATIONS, ROWS
from pedsup_export.rounding.calibrated import LOOKED_UP, Calibrated
from pedsup_export.rounding.matrix import round_rows
from pedsup_export.types.quantize import dequantize_rows, quantize_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

FLASH_PRICE: Final = 0.1
"""Of a byte that is only stored, beside one that is read for every token: ten bytes of a phone's
flash for one of what it reads. A policy: storage is plenty there, but files are carried on a card
or over a thin link."""
SAMPLE_ROWS: Final = 48
SAMPLE_TABLE_ROWS: Final = 512
SCHEMA: Final = "pedsup-allocation/1"
MAX_BYTES: Final = 8 << 20


@dataclass(frozen=True)
class Choosable:
    """A tensor that is quantized: its shape in ggml's order, and how to get at its rows."""

    name: str
    shape: tuple[int, ...]
    rows: Callable[[int], Floats]
    """About so many rows, spread over the tensor: float32 [n, n_per_row]."""
    price: float = 1.0
    """Of its bytes."""
    usual_type: str = ""
    """What llama.cpp's mixture gives it."""

    @property
    def n_rows(self) -> int:
        return int(np.prod(self.shape[1:], dtype=np.int64))


def measured_options(
    tensors: Sequence[Choosable], calibrated: Calibrated, threads: int
) -> dict[str, list[Option]]:
    """What every type would cost and do to each tensor.

    Raises:
        UsageError: the statistics hold no sensitivities.
    """
    record = calibrated.statistics.record
    if not record.sensitivities:
        raise UsageError(
            "the statistics hold no sensitivities",
            where=calibrated.statistics.path,
            remedy="make them again without --sensitivity-windows 0",
        )
    say(f"measuring {len(tensors)} tensors in each type")

    def measure(tensor: Choosable) -> list[Option]:
        return _options(tensor, calibrated)

    with ThreadPoolExecutor(threads) as pool:
        return dict(zip([t.name for t in tensors], pool.map(measure, tensors), strict=True))


def _options(tensor: Choosable, calibrated: Calibrated) -> list[Option]:
    width = tensor.shape[0]
    types = TYPES if width % 256 == 0 else SMALL_BLOCK_TYPES
    table = tensor.name in LOOKED_UP
    wanted = SAMPLE_TABLE_ROWS if table else SAMPLE_ROWS
    rows = tensor.rows(wanted)
    found = []
    for name in types:
        kind = BY_NAME[name]
        if width % kind.block_size:
            continue
        divergence = _divergence(tensor.name, rows, name, calibrated)
        n_bytes = tensor.n_rows * kind.row_bytes(width)
        found.append(Option(name, n_bytes, divergence, tensor.price))
    if not found:
        kind = BY_NAME["F16"]
        return [Option("F16", tensor.n_rows * kind.row_bytes(width), 0.0, tensor.price)]
    return found


def _divergence(name: str, rows: Floats, type_name: str, calibrated: Calibrated) -> float:
    """Sensitivity times relative error of the outputs, of the look-up too.

    The outputs' error is that of the weights, and that of the inputs, which llama.cpp rounds to
    8 bits in blocks as long as those of the type (`vec_dot_type` in ggml-cpu.c: 256 columns for
    types with blocks of 256, 32 for the others).
    """
    kind, statistics = BY_NAME[type_name], calibrated.statistics
    sensitivities = statistics.record.sensitivities
    group = statistics.group_of.get(name)
    if group is not None and calibrated.rounds(name, kind):
        moments = calibrated.moments(group)
        packed, error = round_rows(rows, kind, moments, calibrated.effort, name)
        power, at = 0.0, 0
        for run in moments:
            part = rows[:, at : at + len(run.variance)]
            power += float(np.einsum("ij,ij->", part @ run.hessian, part, dtype=np.float64))
            at += len(run.variance)
        output = error / power if power else 0.0
    else:
        ones = np.ones(rows.shape[1], np.float32) if name in LOOKED_UP else None
        packed = quantize_rows(rows, kind, ones, name=name)
        output = _relative(rows, packed, type_name)
    mark = ACTIVATIONS[256 if kind.block_size == 256 else 32]
    rounded_inputs = sensitivities.get(name + mark, 0.0)
    found = sensitivities.get(name, 0.0) * (output + rounded_inputs)
    if name + ROWS in sensitivities:
        found += sensitivities[name + ROWS] * _relative(rows, packed, type_name)
    return found


def _relative(rows: Floats, packed: NDArray[np.uint8], type_name: str) -> float:
    """Squared error of the weights as a share of their power."""
    error = rows - dequantize_rows(packed, BY_NAME[type_name], rows.shape[1])
    power = float(np.square(rows, dtype=np.float64).sum())
    return float(np.square(error, dtype=np.float64).sum()) / power if power else 0.0


def bytes_of(budget: Budget, *, like: Callable[[str], int], n_weights: int, fixed: int) -> int:
    """Bytes that the choosable tensors may take.

    Args:
        like: bytes of a whole file of a llama.cpp file type.
        n_weights: weights of the file.
        fixed: bytes of everything else in the file; for a phone's budget, of all else that is
            read for every token.
    """
    if budget.read_bytes is not None:
        return budget.read_bytes - fixed
    if budget.like is not None:
        return like(budget.like) - fixed
    if budget.bits_per_weight is not None:
        return int(budget.bits_per_weight * n_weights / 8) - fixed
    assert budget.n_bytes is not None
    return budget.n_bytes - fixed


def choose(
    tensors: Sequence[Choosable], calibrated: Calibrated, n_bytes: int, threads: int
) -> Allocation:
    """Measure and allocate; and say what llama.cpp's own types would give."""
    options = measured_options(tensors, calibrated, threads)
    usual = {(t.name, o.type): o.divergence for t in tensors for o in options[t.name]}
    mixture = [usual.get((t.name, t.usual_type)) for t in tensors]
    known = [divergence for divergence in mixture if divergence is not None]
    whole = sum(known) if len(known) == len(mixture) else None
    return replace(allocate(options, n_bytes), mixture=whole)


def save(path: Path, allocation: Allocation, statistics: str, *, force: bool) -> None:
    """Write a choice, to be given again with --allocation.

    Raises:
        OutputError: something else than an earlier choice would be replaced.
    """
    if path.exists() and not _is_allocation(path):
        raise OutputError(
            "the file that would be replaced holds no saved choice of types",
            where=path,
            wanted="a name of its own for --save-allocation",
            remedy="choose another name, or move that file away",
        )
    document = {
        "schema": SCHEMA,
        "statistics_data_sha256": statistics,
        "predicted_kl": allocation.divergence,
        "bytes": allocation.n_bytes,
        "types": dict(sorted(allocation.types.items())),
    }
    with atomic_file(path, force=force) as file:
        file.write(json.dumps(document, indent=1).encode())


TypeName: TypeAlias = Annotated[str, Check[str](BY_NAME.__contains__, "a type of ggml")]


@dataclass(frozen=True)
class _Document:
    """A saved choice; sizes in bytes, KL in nats."""

    schema: str
    types: Mapping[str, TypeName]
    bytes: Count
    predicted_kl: float


def _is_allocation(path: Path) -> bool:
    try:
        return bool(read_json_object(path, "the allocation", MAX_BYTES)["schema"] == SCHEMA)
    except (PedsupError, OSError, KeyError):
        return False


def read(path: Path, names: Sequence[str]) -> Allocation:
    """Read a saved choice for exactly these tensors.

    Raises:
        BadFileError: it is not one.
        MismatchError: it is for other tensors.
    """
    if not path.is_file():
        raise MissingFileError("no such file", where=path, remedy="check --allocation")
    source = Source("the allocation", path, only_known=False)
    try:
        document = json_record(_Document, path, source, MAX_BYTES)
        if document.schema != SCHEMA:
            raise source.problem(f"schema {document.schema}", wanted=SCHEMA)
    except BadFileError as error:
        raise BadFileError(
            f"this is not a saved allocation: {error.found}",
            where=path,
            wanted=error.wanted or f"a file of --save-allocation ({SCHEMA})",
            remedy="make it again: run --dry-run --budget ... --save-allocation FILE",
        ) from error
    found = Allocation(dict(document.types), document.bytes, document.predicted_kl)
    different = set(found.types) ^ set(names)
    if different:
        raise MismatchError(
            f"the allocation is for another model: '{min(different)}' is not in both",
            where=path,
            wanted="an allocation that was made with this model",
            remedy="make it again with --budget",
        )
    return found
