"""Memory-limited processes for tests: a real control group, or a skip that says what is missing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pedsup_bench.phone import limits


@contextmanager
def memory_limit(n_bytes: int) -> Iterator[limits.Limited]:
    """A group with this limit; what joined it must have been charged (v1: the high-water mark)."""
    with limits.limited(limits.Wanted(memory=n_bytes)) as group:
        if "memory" not in group.set:
            pytest.skip(f"no memory limit can be set here: {group.refused}")
        yield group
        marks = [Path(procs).parent / name for procs in group.procs
                 for name in ("memory.max_usage_in_bytes", "memory.peak")]  # fmt: skip
        for mark in marks:
            if mark.exists():
                assert 0 < int(mark.read_text()) <= n_bytes


def drop_from_cache(path: Path) -> None:
    """The next reader pays for the file's pages, and is charged for them."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
