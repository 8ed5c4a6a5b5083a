"""Read large files past the page cache, where the system allows it.

A model is read once and is often larger than memory: through the page cache every byte costs a
copy and pushes something else out. Direct reads also show what really is on the disk.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

ALIGNMENT: Final = 4096
"""Bytes: the largest logical block of common disks."""
BLOCK: Final = 8 << 20
_local = threading.local()


def _buffer(n_bytes: int) -> memoryview:
    """A page-aligned buffer of at least `n_bytes` that the calling thread keeps."""
    buffer: mmap.mmap | None = getattr(_local, "buffer", None)
    if buffer is None or len(buffer) < n_bytes:
        buffer = _local.buffer = mmap.mmap(-1, n_bytes)
    return memoryview(buffer)


_DIRECT: Final = getattr(os, "O_DIRECT", 0)


class DirectFile:
    """A file open for direct reads, or for ordinary ones where direct ones are unavailable.

    The name is opened once; whatever is read later comes from that very file, also when another
    one has taken its name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe must not wait for its writer
        try:
            self._fd = os.open(path, flags | _DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._fd = os.open(path, flags)  # some file systems have no direct reads
        weakref.finalize(self, os.close, self._fd)

    def fileno(self) -> int:
        """The descriptor, open as long as this object lives."""
        return self._fd

    def stat(self) -> os.stat_result:
        """The state of the open file, whatever its name refers to by now."""
        return os.fstat(self._fd)

    def sync(self) -> None:
        """Have the system write out changes made through mappings first, if it can."""
        with suppress(OSError):
            os.fsync(self._fd)

    def read(self, begin: int, n_bytes: int) -> memoryview:
        """`n_bytes` from byte `begin`, fewer at the end of the file.

        The view is of a buffer of the calling thread and valid until its next read.
        """
        start = begin - begin % ALIGNMENT
        stop = -(-(begin + n_bytes) // ALIGNMENT) * ALIGNMENT
        buffer = _buffer(stop - start)
        at, plain = 0, False
        while at < begin + n_bytes - start:
            try:
                n = os.preadv(self._fd, [buffer[at : stop - start]], start + at)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                # A block size above ours: go on with ordinary reads of the same open file.
                if plain:
                    raise
                flags = fcntl.fcntl(self._fd, fcntl.F_GETFL)
                fcntl.fcntl(self._fd, fcntl.F_SETFL, flags & ~_DIRECT)
                plain = True
                continue
            if n == 0:
                break
            at += n
        return buffer[begin - start : max(begin - start, min(at, begin + n_bytes - start))]


def sha256_range(
    file: DirectFile, begin: int, n_bytes: int, on_bytes: Callable[[int], object] = lambda n: None
) -> str:
    """Hex SHA-256 of a part of a file (of what is there, if the file ends before).

    Args:
        on_bytes: called with the number of bytes after each block, for a progress bar.
    """
    digest = hashlib.sha256()
    while n_bytes and (block := file.read(begin, min(BLOCK, n_bytes))):
        digest.update(block)
        begin, n_bytes = begin + len(block), n_bytes - len(block)
        on_bytes(len(block))
    return digest.hexdigest()
