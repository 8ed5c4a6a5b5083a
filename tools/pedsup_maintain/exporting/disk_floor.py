"""The least an export can take: reading its input once and writing its output once.

Also drops the page cache, so that each step starts from the disk.
"""

from __future__ import annotations

import errno
import mmap
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pedsup.errors import ResourceError

BLOCK: Final = 16 << 20
DROP: Final = ("inputs", "all", "none")
DROP_CACHES: Final = Path("/proc/sys/vm/drop_caches")


@dataclass(frozen=True)
class Floor:
    """Seconds and bytes of one read and one write of the disk."""

    read_s: float
    read_bytes: int
    write_s: float
    write_bytes: int
    direct: bool
    """Whether the read went past the page cache."""

    @property
    def wall(self) -> float:
        """Read, then write: one disk does one at a time."""
        return self.read_s + self.write_s


def files_below(paths: Iterable[Path]) -> Iterator[Path]:
    """The plain files among `paths` and below them."""
    for path in paths:
        if path.is_dir():
            yield from (p for p in sorted(path.rglob("*")) if p.is_file())
        elif path.is_file():
            yield path


def drop_cache(paths: Iterable[Path], what: str) -> None:
    """Write out what is dirty and forget cached pages, so that a step starts from the disk.

    Args:
        what: 'inputs' forgets the pages of `paths` and leaves Python's and torch's libraries
            warm, as they are for someone at work; 'all' forgets everything (root only), so
            that each step also loads its libraries from the disk; 'none' changes nothing.

    Raises:
        ResourceError: 'all' without the right to.
    """
    if what == "none":
        return
    os.sync()
    if what == "all":
        try:
            DROP_CACHES.write_text("1")
        except OSError as error:
            raise ResourceError(
                f"the page cache cannot be dropped: {error.strerror}",
                where=DROP_CACHES,
                remedy="run as root, or give --drop-cache inputs",
            ) from error
        return
    for path in files_below(paths):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def _open_direct(path: Path) -> tuple[int, bool]:
    """A descriptor past the page cache where the file system can (tmpfs cannot)."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECT), True
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, os.O_RDONLY), False


def read_once(paths: Iterable[Path]) -> tuple[float, int, bool]:
    """Read all files below `paths` once: seconds, bytes, whether past the page cache."""
    buffer = mmap.mmap(-1, BLOCK)  # page-aligned, as direct reads demand
    total, all_direct = 0, True
    start = time.perf_counter()
    for path in files_below(paths):
        fd, direct = _open_direct(path)
        all_direct &= direct
        try:
            while n := os.readv(fd, [buffer]):
                total += n
                if n % mmap.PAGESIZE:
                    break  # the end of the file: a direct read could not go on from here
        finally:
            os.close(fd)
    return time.perf_counter() - start, total, all_direct


def write_once(folder: Path, n_bytes: int) -> float:
    """Write and fsync a file of `n_bytes` that does not compress, remove it; seconds."""
    block = os.urandom(BLOCK)
    path = folder / "floor.bin"
    start = time.perf_counter()
    try:
        with path.open("wb", buffering=0) as file:
            left = n_bytes
            while left:
                left -= file.write(memoryview(block)[: min(left, BLOCK)])
            os.fsync(file.fileno())
        return time.perf_counter() - start
    finally:
        path.unlink(missing_ok=True)


def measure_floor(inputs: Iterable[Path], folder: Path, output_bytes: int) -> Floor:
    """Time one read of `inputs` and one write of `output_bytes` in `folder`."""
    inputs = list(inputs)
    drop_cache(inputs, "inputs")
    read_s, read_bytes, direct = read_once(inputs)
    return Floor(read_s, read_bytes, write_once(folder, output_bytes), output_bytes, direct)
