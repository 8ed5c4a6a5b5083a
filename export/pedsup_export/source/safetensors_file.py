"""A safetensors file: header read with every size checked, tensors as views of a memory map.

Format: https://github.com/huggingface/safetensors#format

    u64 little-endian n | n bytes of JSON | tensor data

    {"__metadata__": {str: str}, NAME: {"dtype": D, "shape": [..], "data_offsets": [begin, end]}}

The offsets count from the first byte after the header; the tensors must cover the data
without overlap or hole, as the reference implementation demands. Nothing from the file
sizes an allocation before it was compared with the bytes that are there, and no tensor is
copied: a reader asks for rows and gives their pages back with `release_bytes`.

The name is opened once. Header, rows and digest come from that one open file, so that a file
that takes its name later changes nothing; one that is changed in place is found by
`require_unchanged`.
"""

from __future__ import annotations

import json
import mmap
import os
import stat
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pedsup.errors import BadFileError, MismatchError, MissingFileError, UnsupportedError
from pedsup.files.direct_io import DirectFile, sha256_range

MAX_HEADER: Final = 32 << 20
"""Bytes of JSON. A shard of the largest models has some hundred thousand; the reference
implementation accepts 100 million, which as Python objects would be gigabytes."""
MAX_TENSORS: Final = 1 << 17
MAX_DIMS: Final = 32
MAX_NAME: Final = 256
_LENGTH = struct.Struct("<Q")
_AGAIN: Final = "the file is damaged: copy or download it again and compare its SHA-256"

DTYPES: Final[Mapping[str, tuple[int, str]]] = MappingProxyType(
    {
        # name: (bits per element, numpy type of the raw view; '' where numpy has none)
        "F64": (64, "<f8"),
        "F32": (32, "<f4"),
        "F16": (16, "<f2"),
        "BF16": (16, "<u2"),
        "I64": (64, "<i8"),
        "I32": (32, "<i4"),
        "I16": (16, "<i2"),
        "I8": (8, "i1"),
        "U64": (64, "<u8"),
        "U32": (32, "<u4"),
        "U16": (16, "<u2"),
        "U8": (8, "u1"),
        "BOOL": (8, "u1"),
        "C64": (64, "<c8"),
        "F8_E4M3": (8, "u1"),
        "F8_E5M2": (8, "u1"),
        "F8_E8M0": (8, "u1"),
        "F8_E4M3FNUZ": (8, "u1"),
        "F8_E5M2FNUZ": (8, "u1"),
        "F6_E2M3": (6, ""),
        "F6_E3M2": (6, ""),
        "F4": (4, ""),
    }
)


def _nothing(*_: object) -> None:
    pass


@dataclass(frozen=True)
class TensorEntry:
    """One line of the header; `begin` and `end` are absolute positions in the file, in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def n_bytes(self) -> int:
        return self.end - self.begin

    @property
    def n_rows(self) -> int:
        """Length of the first axis; a scalar counts as one row."""
        return self.shape[0] if self.shape else 1

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.shape[1:]


class SafetensorsFile:
    """A checked, memory-mapped safetensors file.

    Attributes:
        tensors: entries by name, in the order of their data.
        metadata: the `__metadata__` strings.

    Raises:
        BadFileError: not a safetensors file, truncated, or a header that does not fit its data.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._direct = _open(self.path)
        self._state = file_state(self._direct.stat())
        self.size = self._direct.stat().st_size
        start, text = _read_header(self._direct, self.size, self.path)
        self.header = start + text
        header = _parse_json(text, self.path)
        self.metadata = _metadata(header.pop("__metadata__", {}), self.path)
        self.tensors = _entries(header, len(self.header), self.size, self.path)
        self.on_read: Callable[[int, memoryview], None] = _nothing
        """Told the position and the bytes of all that `read_rows` reads, before they are used."""
        self._map = mmap.mmap(self._direct.fileno(), 0, access=mmap.ACCESS_READ)
        if hasattr(mmap, "MADV_SEQUENTIAL"):
            self._map.madvise(mmap.MADV_SEQUENTIAL)

    def read(self, begin: int, end: int) -> memoryview:
        """Bytes `begin` to `end` of the file, valid until the calling thread's next read.

        Raises:
            BadFileError: the file ends before: it was cut after it was opened.
        """
        octets = self._direct.read(begin, end - begin)
        if len(octets) < end - begin:
            raise _bad("the file was cut while it was read", self.path, "a whole file")
        self.on_read(begin, octets)
        return octets

    def sha256(self, on_bytes: Callable[[int], object] = _nothing) -> str:
        """Hex SHA-256 of the open file, read once from its first byte to its last."""
        return sha256_range(self._direct, 0, self.size, on_bytes)

    def require_unchanged(self, sha256: str) -> None:
        """Compare the open file's size and times with those at its opening.

        Args:
            sha256: of what was read. A file that has lost its name or got another has another
                change time, too: it is then read again and compared.

        Raises:
            MismatchError: it was written to since.
        """
        now = file_state(self._direct.stat())
        if now != self._state and (now[:-1] != self._state[:-1] or self.sha256() != sha256):
            raise MismatchError(
                "the file was changed while it was read",
                where=self.path,
                wanted="inputs that nothing writes to during an export",
                remedy="let the download or training end, then give the same command again",
            )

    def entry(self, name: str) -> TensorEntry:
        """The entry of `name`.

        Raises:
            BadFileError: there is no such tensor.
        """
        found = self.tensors.get(name)
        if found is None:
            raise BadFileError(
                f"there is no tensor '{name}'",
                where=self.path,
                remedy="use the complete checkpoint",
            )
        return found

    def rows(self, name: str, lo: int, hi: int) -> NDArray[Any]:
        """Rows `lo` to `hi` (exclusive) as they are on disk, a read-only view without a copy.

        Returns:
            Array [hi - lo, ...] in the type of `DTYPES`: bf16 as uint16, 8-bit floats as uint8;
            of a scalar, rows(0, 1) is [1].

        Raises:
            UnsupportedError: elements smaller than a byte.
        """
        entry = self.entry(name)
        bits, numpy_name = DTYPES[entry.dtype]
        if not numpy_name:
            raise UnsupportedError(
                f"elements of {bits} bits ({entry.dtype})",
                where=f"{self.path}: {name}",
                remedy="use the bf16 or float16 checkpoint of this model",
            )
        if not 0 <= lo <= hi <= entry.n_rows:
            raise IndexError(f"rows {lo}:{hi} of {name}, which has {entry.n_rows}")
        count = (hi - lo) * prod(entry.row_shape)
        shape = (hi - lo, *entry.row_shape)
        if count == 0:
            return np.empty(shape, numpy_name)
        begin, _ = self._span(entry, lo, hi)
        return np.frombuffer(self._map, numpy_name, count, begin).reshape(shape)

    def read_rows(self, name: str, lo: int, hi: int) -> NDArray[Any]:
        """Like `rows`, but read into a buffer of the calling thread, valid until its next call.

        For whole blocks this is several times faster than touching the map page by page, and
        threads do not wait for each other in the page tables.

        Raises:
            BadFileError: the file ends before the rows do: it was cut after it was opened.
        """
        entry = self.entry(name)
        begin, end = self._span(entry, lo, hi)
        numpy_name = DTYPES[entry.dtype][1]
        if not numpy_name or not 0 <= lo <= hi <= entry.n_rows or begin == end:
            return self.rows(name, lo, hi)  # which says what is wrong
        octets = self.read(begin, end)
        return np.frombuffer(octets, numpy_name).reshape(hi - lo, *entry.row_shape)

    def raw(self, name: str) -> NDArray[np.uint8]:
        """All bytes of a tensor, uint8 [n_bytes], without a copy."""
        entry = self.entry(name)
        if entry.n_bytes == 0:
            return np.empty(0, np.uint8)
        return np.frombuffer(self._map, np.uint8, entry.n_bytes, entry.begin)

    def release_bytes(self, begin: int, end: int) -> None:
        """Give the pages of these bytes back, so that resident memory does not grow.

        Views stay valid: a page that is touched again is read again.
        """
        # Partial pages at both ends go too: a neighbour that needs one reads it again.
        option = getattr(mmap, "MADV_DONTNEED", None)  # not on every system
        start = begin - begin % mmap.PAGESIZE
        if option is not None and end > start and start < len(self._map):
            self._map.madvise(option, start, end - start)

    def _span(self, entry: TensorEntry, lo: int, hi: int) -> tuple[int, int]:
        per_row = entry.n_bytes // entry.n_rows if entry.n_rows else 0
        return entry.begin + lo * per_row, entry.begin + hi * per_row


State = tuple[int, int, int, int, int]


def file_state(found: os.stat_result) -> State:
    """What tells one state of a file from another without reading it."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _open(path: Path) -> DirectFile:
    try:
        file = DirectFile(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFileError("no such file", where=path, remedy="check the path") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BadFileError(
            f"the file cannot be opened: {reason}",
            where=path,
            remedy="check the path and its permissions",
        ) from error
    if not stat.S_ISREG(file.stat().st_mode):
        raise BadFileError("this is no regular file", where=path, wanted="a safetensors file")
    return file


def _bad(found: str, path: Path, wanted: str, remedy: str = _AGAIN) -> BadFileError:
    return BadFileError(found, where=path, wanted=wanted, remedy=remedy)


def _read_header(file: DirectFile, size: int, path: Path) -> tuple[bytes, bytes]:
    """The eight bytes of the length, and the JSON bytes."""
    start = bytes(file.read(0, 24))
    if start.startswith(b"version https://git-lfs"):
        raise _bad(
            "a Git LFS pointer instead of the weights",
            path,
            "a safetensors file",
            "run `git lfs pull` in that folder, or download the file itself",
        )
    if start.startswith((b"PK\x03\x04", b"\x80\x02")):
        raise _bad(
            "a PyTorch pickle under a safetensors name",
            path,
            "a safetensors file",
            "save the model again with save_pretrained(..., safe_serialization=True)",
        )
    if size < 10:
        raise _bad(f"a file of {size} bytes", path, "a safetensors file: at least 10 bytes")
    length = int(_LENGTH.unpack_from(start)[0])
    if length > MAX_HEADER:
        raise _bad(
            f"a header of {length} bytes: not a safetensors file, or a damaged one",
            path,
            f"at most {MAX_HEADER} bytes",
        )
    if length > size - 8:
        raise _bad(
            f"a header of {length} bytes announced in a file of {size} bytes", path, "a whole file"
        )
    text = bytes(file.read(8, length))
    if len(text) != length:
        raise _bad("the file was cut while it was read", path, "a whole file")
    return start[:8], text


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise _DuplicateError(key)
        result[key] = value
    return result


class _DuplicateError(Exception):
    """A JSON object has a key twice; which value counts would depend on the reader."""


def _parse_json(text: bytes, path: Path) -> dict[str, Any]:
    # Counted before they become objects, each of which takes fifty times its bytes.
    if text.count(b"{") + text.count(b"[") > 3 * MAX_TENSORS:
        raise _bad("more parts in the header than any model has", path, f"{MAX_TENSORS} tensors")
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except _DuplicateError as error:
        raise _bad(f"the header names '{error}' twice", path, "each name once") from error
    except (ValueError, RecursionError) as error:
        raise _bad("the header is not JSON", path, "a safetensors header") from error
    if not isinstance(header, dict):
        raise _bad("the header is no JSON object", path, "a safetensors header")
    return header


def _metadata(value: Any, path: Path) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise _bad("'__metadata__' is not a table of strings", path, "strings only")
    return value


def _natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _entry(name: str, line: Any, data_size: int, path: Path) -> TensorEntry:
    """One checked header line, offsets still relative to the data."""
    place = f"{path}: tensor '{name[:MAX_NAME]}'"

    def bad(found: str, wanted: str) -> BadFileError:
        return BadFileError(found, where=place, wanted=wanted, remedy=_AGAIN)

    if len(name) > MAX_NAME or not name.isprintable():
        raise bad(f"a name of {len(name)} characters", f"a printable name of up to {MAX_NAME}")
    if not isinstance(line, dict) or not {"dtype", "shape", "data_offsets"} <= line.keys():
        raise bad("a tensor without dtype, shape or data_offsets", "all three")
    dtype, shape, offsets = line["dtype"], line["shape"], line["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise bad(f"unknown dtype {dtype!r}", "one of " + ", ".join(DTYPES))
    if not isinstance(shape, list) or len(shape) > MAX_DIMS or not all(map(_natural, shape)):
        raise bad("shape is not a short list of sizes", f"at most {MAX_DIMS} integers from 0")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_natural, offsets)):
        raise bad("data_offsets are not a pair of positions", "two integers from 0")
    begin, end = offsets
    if begin > end or end > data_size:
        raise bad(
            f"data from byte {begin} to {end}, but the file holds {data_size} bytes of data: "
            "it is truncated or its header lies",
            "offsets inside the file",
        )
    bits = DTYPES[dtype][0] * prod(shape)
    if bits != 8 * (end - begin):
        raise bad(
            f"{end - begin} bytes for shape {shape} of {dtype}",
            "shape and dtype that make up the bytes",
        )
    return TensorEntry(name, dtype, tuple(shape), begin, end)


def _entries(
    header: dict[str, Any], data_begin: int, size: int, path: Path
) -> dict[str, TensorEntry]:
    """All entries in the order of their data, which they must cover exactly."""
    data_size = size - data_begin
    found = [_entry(name, line, data_size, path) for name, line in header.items()]
    found.sort(key=lambda e: (e.begin, e.end))
    at = 0
    result = {}
    for e in found:
        if e.begin != at:
            what = "overlaps the one before" if e.begin < at else "leaves a hole before it"
            raise _bad(
                f"the data of tensor '{e.name}' {what}", path, "data without overlap or hole"
            )
        at = e.end
        result[e.name] = TensorEntry(
            e.name, e.dtype, e.shape, e.begin + data_begin, e.end + data_begin
        )
    if at != data_size:
        raise _bad(
            f"{data_size - at} bytes after the last tensor", path, "data that the header describes"
        )
    return result
