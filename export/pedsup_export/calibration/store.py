"""The file of calibration statistics: an importance matrix of llama.cpp's GGUF form, and more.

    <tensor>.in_sum2, <tensor>.counts   as `llama-imatrix` writes them, for every matrix
    <owner>.in_prod                     F32 [b, b, n / b]: sums of products of the inputs, of n
                                        columns in runs of b, shared by the matrices with this input

llama.cpp passes over tensors with other names, so that the file serves `llama-quantize --imatrix`
too. The metadata under `pedsup.calibration.` say which matrices it was made of (a fingerprint
each), of which text, and how sensitive the model is to an error in each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from pedsup.errors import BadFileError, OutputError, PedsupError
from pedsup.files.direct_io import BLOCK, DirectFile
from pedsup.files.fsio import atomic_file, partial_path
from pedsup.files.records import record
from pedsup.files.source import Source, parsed_json
from pedsup.gguf_file import ArrayValue, GGUFHeader, read_header
from pedsup.gguf_file.ggml_types import BY_NAME
from pedsup.gguf_file.values import ValueType
from pedsup_export.calibration.record import InputGroup, Record
from pedsup_export.gguf.header import KV, array, header_bytes, lay_out, padded, string, u32
from pedsup_export.source.safetensors_file import State, changed, file_state

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

PREFIX: Final = "pedsup.calibration."
VERSION: Final = 1
PRODUCTS: Final = ".in_prod"
_REMAKE: Final = "make it again: pedsup-export calibrate"
_NO_DIGEST: Final = "0" * 64
_LARGEST: Final = 1e12
"""Larger second moments overflow float32 in the rounding; those of activations are far below."""


def write(
    path: Path,
    about: Record,
    groups: Sequence[InputGroup],
    sums: Callable[[str], tuple[Floats, Floats | None]],
    *,
    force: bool,
) -> None:
    """Write the file; `sums` gives for a group's owner its squares [n] and products [n/b, b, b]."""
    owner = {name: g for g in groups for name in g.names}
    slots = lay_out((name, shape, BY_NAME["F32"]) for name, shape in _listed(groups))

    def data(name: str) -> Floats:
        stem, _, what = name.rpartition(".")
        if what == "counts":
            return np.array([about.tokens], np.float32)
        squares, products = sums(owner[stem].owner)
        found = products if what == "in_prod" else squares
        assert found is not None
        return found

    with atomic_file(path, force=force) as file:
        file.write(header_bytes(_metadata(about, groups, _NO_DIGEST), slots))
        digest = hashlib.sha256()
        for slot in slots:
            values = np.ascontiguousarray(data(slot.name), "<f4")
            raw = values.reshape(-1).view(np.uint8).data
            pad = b"\0" * (padded(slot.n_bytes) - slot.n_bytes)
            for part in (raw, pad):
                file.write(part)
                digest.update(part)
        file.flush()
        entries = _metadata(about, groups, digest.hexdigest())
        with partial_path(path).open("r+b") as head:  # `file` itself only appends
            head.write(header_bytes(entries, slots))


def _listed(groups: Sequence[InputGroup]) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the file's tensors."""
    listed: list[tuple[str, tuple[int, ...]]] = []
    for group in groups:
        if group.run:
            shape = (group.run, group.run, group.n_columns // group.run)
            listed.append((group.owner + PRODUCTS, shape))
    columns = {name: g.n_columns for g in groups for name in g.names if name.startswith("blk.")}
    for name in sorted(columns):
        listed += [(name + ".in_sum2", (columns[name], 1)), (name + ".counts", (1, 1))]
    return listed


def _metadata(about: Record, groups: Sequence[InputGroup], digest: str) -> list[KV]:
    document = {**asdict(about), "groups": [[g.names, g.n_columns, g.run] for g in groups]}
    return [
        string("general.type", "imatrix"),
        array("imatrix.datasets", ValueType.STRING, [t["name"] for t in about.texts]),
        u32("imatrix.chunk_count", about.tokens // about.window),
        u32("imatrix.chunk_size", about.window),
        u32(PREFIX + "version", VERSION),
        string(PREFIX + "record", json.dumps(document, sort_keys=True)),
        string(PREFIX + "data_sha256", digest),
    ]


@dataclass(frozen=True)
class Statistics:
    """Statistics read and checked: digests, shapes, and that nothing is NaN or Inf.

    Attributes:
        sha256: of the whole file.
        file: the open file, from which all is read: the name may lead to another one by then.
        states: of the file, as `file_state`, in which its bytes were found to be those digested.
    """

    path: Path
    header: GGUFHeader
    record: Record
    groups: tuple[InputGroup, ...]
    data_sha256: str
    sha256: str
    file: DirectFile
    states: set[State]

    @cached_property
    def group_of(self) -> dict[str, InputGroup]:
        """Tensor -> the group that it belongs to."""
        return {name: group for group in self.groups for name in group.names}

    def products(self, group: InputGroup) -> Iterator[Floats]:
        """Second moments of each run of a group's columns: float32 [run, run], divided by tokens.

        Raises:
            BadFileError: a value is NaN, Inf or absurdly large.
            MismatchError: the file was changed since it was opened.
        """
        info = self.header.tensors[group.owner + PRODUCTS]
        start = self.header.data_offset + info.offset
        n_bytes = 4 * group.run * group.run
        for at in range(start, start + info.n_bytes, n_bytes):
            stored = bytes(self.file.read(at, n_bytes))
            self._require_unchanged()  # after the reading: a shorter file has another state
            values: Floats = np.frombuffer(stored, "<f4").reshape(group.run, group.run)
            if not np.isfinite(values).all():
                raise _bad(self.path, f"the statistics of '{group.owner}' hold NaN or Inf")
            values = values / np.float32(self.record.tokens)
            if float(np.abs(values).max()) > _LARGEST:
                raise _bad(
                    self.path, f"the statistics of '{group.owner}' hold {np.abs(values).max():.3g}"
                )
            yield values

    def _require_unchanged(self) -> None:
        now = file_state(self.file.stat())
        if now in self.states:
            return
        # Losing its name changes a file's change time too: it is then read again.
        same = any(now[:-1] == state[:-1] for state in self.states)
        if not same or _digests(self.file, self.header.data_offset)[0] != self.sha256:
            raise changed(self.path)
        self.states.add(now)


def read(path: Path) -> Statistics:
    """Open and check a file of statistics.

    Raises:
        BadFileError: it is not one, is truncated, or its data are not what was written.
        MismatchError: it was changed or replaced meanwhile.
    """
    header = read_header(path)
    if PREFIX + "record" not in header.metadata:
        raise _bad(path, "this GGUF holds no calibration statistics of pedsup")
    if (found := header.metadata.get(PREFIX + "version")) != VERSION:
        raise _bad(path, f"the statistics are of version {found}")
    about, groups = _parse(path, header)
    _check_tensors(header, groups)
    digest = str(header.metadata.get(PREFIX + "data_sha256"))
    file = DirectFile(path)
    state = file_state(file.stat())
    whole, data = _digests(file, header.data_offset)
    if data != digest:
        raise _bad(path, "the data are not those that were written (damaged or cut short)")
    # The header was read by name: by now the name must lead to the file that was digested.
    again = read_header(path)
    if file_state(path.stat()) != state or again.metadata != header.metadata:
        raise changed(path)
    return Statistics(path, header, about, groups, digest, whole, file, {state})


def refuse_other_file(path: Path) -> None:
    """Raise `OutputError` where something else than statistics would be replaced.

    A name alone is not permission, `--force` or not: the model itself may have been given.
    """
    if not (path.exists() or path.is_symlink()):
        return
    try:
        ours = PREFIX + "record" in read_header(path).metadata
    except (PedsupError, OSError):
        ours = False
    if not ours:
        raise OutputError(
            "the file that would be replaced holds no calibration statistics",
            where=path,
            wanted="a name of its own for the statistics",
            remedy="choose another --out, or move that file away",
        )


def _digests(file: DirectFile, data_offset: int) -> tuple[str, str]:
    """SHA-256 of the whole file and of its data, in one reading."""
    whole, data, at = hashlib.sha256(), hashlib.sha256(), 0
    while block := file.read(at, BLOCK):
        whole.update(block)
        data.update(block[max(0, data_offset - at) :])
        at += len(block)
    return whole.hexdigest(), data.hexdigest()


@dataclass(frozen=True)
class _Groups:
    groups: tuple[tuple[tuple[str, ...], int, int], ...]
    """Names, columns and run of each `InputGroup`."""


def _parse(path: Path, header: GGUFHeader) -> tuple[Record, tuple[InputGroup, ...]]:
    if not isinstance(header.metadata.get("imatrix.datasets"), ArrayValue):
        raise _bad(path, "imatrix.datasets is not a list of names")
    source = Source("the record of the statistics", path, remedy=_REMAKE, only_known=False)
    document = parsed_json(str(header.metadata[PREFIX + "record"]).encode(), source)
    found = record(Record, document, source)
    if found.types.keys() != found.fingerprints.keys():
        raise _bad(path, "the record of the statistics has types and fingerprints of other tensors")
    groups = record(_Groups, document, source).groups
    return found, tuple(InputGroup(*group) for group in groups)


def _check_tensors(header: GGUFHeader, groups: Sequence[InputGroup]) -> None:
    for group in groups:
        if not group.names or group.n_columns < 1 or group.run < 0:
            raise _bad(header.path, "a group of inputs cannot be right")
        if not group.run:
            continue
        info = header.tensors.get(group.owner + PRODUCTS)
        shape = (group.run, group.run, group.n_columns // group.run)
        found = (*info.shape, 1, 1)[:3] if info else ()
        fits = group.n_columns % group.run == 0 and found == shape
        if info is None or info.type.name != "F32" or not fits:
            raise _bad(header.path, f"the second moments of '{group.owner}' have another shape")


def _bad(path: Path, found: str) -> BadFileError:
    return BadFileError(
        found, where=path, wanted="statistics of pedsup-export calibrate", remedy=_REMAKE
    )
