"""How much of a file is in the page cache, so that only a cold load is called cold."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from typing import Final

COLD: Final = 0.02
"""Share of the file's pages that may be there: headers that were just checked."""
READ: Final = 0.9
"""Share of the file that must come from storage where the kernel does not show its pages."""


def resident_share(path: Path) -> float | None:
    """Share of a file's pages in the page cache, by mincore(2); None if that is not available.

    Linux says 1.0 of a file that the caller neither owns nor may write.
    """
    size = path.stat().st_size
    if not size:
        return None
    n_pages = -(-size // mmap.PAGESIZE)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        map_, unmap, ask = libc.mmap, libc.munmap, libc.mincore
    except (OSError, AttributeError):
        return None
    map_.restype = ctypes.c_void_p
    map_.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
                     ctypes.c_long]  # fmt: skip
    unmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    ask.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    with path.open("rb") as file:
        address = map_(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    if address in (None, ctypes.c_void_p(-1).value):
        return None
    pages = ctypes.create_string_buffer(n_pages)
    try:
        if ask(address, size, pages) != 0:
            return None
    finally:
        unmap(address, size)
    # The other bits of each byte mean nothing.
    return sum(page & 1 for page in pages.raw) / n_pages


def drop_from_cache(path: Path) -> None:
    """Ask the kernel to forget the file's pages; needs no rights where nobody maps them."""
    if not hasattr(os, "posix_fadvise"):
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def was_cold(resident: float | None, read_bytes: int | None, size: int) -> bool:
    """Whether a load began without the file: by its pages just before, or by what was read."""
    if resident is not None and resident <= COLD:
        return True
    return read_bytes is not None and read_bytes >= READ * size
