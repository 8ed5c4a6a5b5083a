"""The undo journal of a patch in place: what the last step overwrote, in two files in turn.

    magic 8 | u64 sequence | u64 steps done before | u64 byte of the model | u64 length
    | SHA-256 of all that and of the bytes | the bytes

A record is on the disk before the model is written to. Of the two files the valid one with the
higher sequence says where the work stands: what it holds is put back, and exactly that many steps
are done. The steps before need no record: each can be taken back by the patch.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pedsup.files.fsio import fsync_folder, open_partial, sync_file
from pedsup.patch.copying import write_at

MAGIC: Final = b"PEDUNDO1"
_HEAD: Final = struct.Struct("<8sQQQQ")
_DIGEST: Final = 32


@dataclass(frozen=True)
class Record:
    """What a step is about to overwrite."""

    sequence: int
    done: int
    """Steps that are done before it."""
    at: int
    data: bytes


class UndoJournal:
    """The two files, open."""

    def __init__(self, fds: tuple[int, int]) -> None:
        self._fds = fds
        self._sequence = 0

    def reserve(self, n_bytes: int) -> None:
        """Take the room that records of up to `n_bytes` need, so that it is there later.

        Zeros, and no record: where there is one, the room is taken already.
        """
        for fd in self._fds:
            missing = _HEAD.size + _DIGEST + n_bytes - os.fstat(fd).st_size
            if missing > 0:
                write_at(fd, bytes(missing), os.fstat(fd).st_size)
                sync_file(fd)

    def last(self) -> Record | None:
        """The record of the step that was begun last; None if none was begun."""
        found = [record for fd in self._fds if (record := _read(fd)) is not None]
        if not found:
            return None
        record = max(found, key=lambda record: record.sequence)
        self._sequence = record.sequence
        return record

    def write(self, done: int, at: int, data: bytes) -> None:
        """Keep what the next step overwrites; it is on the disk when this returns."""
        self._sequence += 1
        head = _HEAD.pack(MAGIC, self._sequence, done, at, len(data))
        fd = self._fds[self._sequence % 2]
        write_at(fd, head + hashlib.sha256(head + data).digest() + data, 0)
        sync_file(fd)


@contextmanager
def open_journal(folder: Path) -> Iterator[UndoJournal]:
    with ExitStack() as opened:
        fds = []
        for name in ("undo.0", "undo.1"):
            fds.append(open_partial(folder / name, os.O_RDWR))
            opened.callback(os.close, fds[-1])
        fsync_folder(folder)
        yield UndoJournal((fds[0], fds[1]))


def _read(fd: int) -> Record | None:
    head = os.pread(fd, _HEAD.size, 0)
    if len(head) < _HEAD.size or not head.startswith(MAGIC):
        return None
    _, sequence, done, at, length = _HEAD.unpack(head)
    if length > os.fstat(fd).st_size:
        return None
    digest = os.pread(fd, _DIGEST, _HEAD.size)
    data = os.pread(fd, length, _HEAD.size + _DIGEST)
    if hashlib.sha256(head + data).digest() != digest:
        return None  # the step was never begun: its record is torn
    return Record(sequence, done, at, data)
