"""The storage under a file: which file system it is, and how fast it is read."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from pedsup.device.system_files import text_of
from pedsup.files.direct_io import DirectFile

BLOCK: Final = 1 << 20
SECONDS: Final = 0.3
MOST: Final = 128 << 20


def read_rate(path: Path, *, seconds: float = SECONDS, most: int = MOST) -> float | None:
    """Bytes per second of sequential reads from the middle of a file, past the page cache.

    Takes `seconds` at the most, but always one block of 1 MiB. None if the file is shorter than
    that, or cannot be read. Page faults read in smaller pieces: this is an upper bound.
    """
    try:
        size = path.stat().st_size
        if size < 2 * BLOCK:
            return None
        file = DirectFile(path)
        _drop(path)
        at = start = size // 2 // BLOCK * BLOCK
        began = time.perf_counter()
        while True:
            n = len(file.read(at, min(BLOCK, size - at)))
            at += n
            taken = time.perf_counter() - began
            if n < BLOCK or taken >= seconds or at - start >= most or at >= size:
                break
    except OSError:
        return None
    return (at - start) / taken if taken > 0 and at > start else None


def _drop(path: Path) -> None:
    """Drop the file's cached pages: without direct reads they would be measured instead."""
    fd = os.open(path, os.O_RDONLY)
    try:
        middle = path.stat().st_size // 2
        os.posix_fadvise(fd, middle, MOST, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def file_system(path: Path, mounts: str | None = None) -> str:
    """The type of the file system that a file is on, as the kernel calls it; '' if unknown.

    Args:
        mounts: what /proc/self/mountinfo says (proc(5)); default: read.
    """
    real, best, kind = os.path.realpath(path), -1, ""
    for line in (text_of(Path("/proc/self/mountinfo")) if mounts is None else mounts).splitlines():
        fields = line.split(" ")
        if len(fields) < 9 or "-" not in fields:
            continue
        point = fields[4].replace("\\040", " ").replace("\\134", "\\")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        # A later mount on the same place hides the earlier one.
        if inside and len(point) >= best:
            best, kind = len(point), fields[fields.index("-") + 1]
    return kind
