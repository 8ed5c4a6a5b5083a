"""A safetensors file: its checked header, and tensors as views of a memory map.

No tensor is copied: a reader asks for rows and gives their pages back with `release_bytes`.

The name is opened once. Header, rows and digest come from that one open file, so that a file
that takes its name later changes nothing; one that is changed in place is found by
`require_unchanged`.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pedsup.errors import BadFileError, MismatchError, MissingFileError, UnsupportedError
from pedsup.files.direct_io import DirectFile, sha256_range
from pedsup_export.source.safetensors_header import (
    DTYPES,
    TensorEntry,
    damaged,
    read_header,
)


def _nothing(*_: object) -> None:
    pass


class SafetensorsFile:
    """A checked, memory-mapped safetensors file.

    Attributes:
        header: all bytes before the data.
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
        found = read_header(self._direct, self.size, self.path)
        self.header, self.metadata, self.tensors = found.octets, found.metadata, found.tensors
        self.on_read: Callable[[int, memoryview], None] = _nothing
        """Told the position and the bytes of all that `read_entry` reads, before they are used."""
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
            raise damaged("the file was cut while it was read", self.path, "a whole file")
        self.on_read(begin, octets)
        return octets

    def sha256(self) -> str:
        """Hex SHA-256 of the open file, read once from its first byte to its last."""
        return sha256_range(self._direct, 0, self.size)

    def require_unchanged(self, sha256: str) -> None:
        """Compare the open file's size and times with those at its opening.

        Args:
            sha256: of what was read. Renaming or unlinking a file changes its change time too:
                the file is then read again and compared.

        Raises:
            MismatchError: it was written to since.
        """
        now = file_state(self._direct.stat())
        if now != self._state and (now[:-1] != self._state[:-1] or self.sha256() != sha256):
            raise changed(self.path)

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

    def rows(self, name: str, lo: int, hi: int) -> NDArray[np.generic]:
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

    def read_entry(self, entry: TensorEntry, lo: int, hi: int) -> NDArray[np.generic]:
        """Like `rows`, but read into a buffer of the calling thread, valid until its next call.

        The entry may be one of the file's in another shape of as many elements.

        For whole blocks this is several times faster than touching the map page by page, and
        threads do not wait for each other in the page tables.

        Raises:
            BadFileError: the file ends before the rows do: it was cut after it was opened.
        """
        begin, end = self._span(entry, lo, hi)
        numpy_name = DTYPES[entry.dtype][1]
        if not numpy_name or not 0 <= lo <= hi <= entry.n_rows or begin == end:
            return self.rows(entry.name, lo, hi)  # which says what is wrong
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


def changed(path: Path) -> MismatchError:
    """The error for an input that is not what it was when it was opened."""
    return MismatchError(
        "the file was changed or replaced while it was read",
        where=path,
        wanted="inputs that nothing writes to during an export",
        remedy="let the download or training end, then give the same command again",
    )


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
        raise BadFileError("this is not a regular file", where=path, wanted="a safetensors file")
    return file
