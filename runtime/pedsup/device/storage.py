"""How fast the storage under a file delivers what the page cache does not hold."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

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
        if hasattr(os, "posix_fadvise"):
            middle = path.stat().st_size // 2
            os.posix_fadvise(fd, middle, MOST, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
