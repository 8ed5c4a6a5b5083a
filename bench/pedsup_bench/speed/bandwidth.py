"""How fast this machine reads memory, measured with nothing but the C library.

`memchr` for a byte that is not there reads a buffer once, in vector instructions, and stores
nothing; under ctypes it runs outside the interpreter lock. A phone needs no numpy for it.
"""

from __future__ import annotations

import ctypes
import threading
from time import perf_counter
from typing import Final

SIZE: Final = 256 << 20
"""Bytes of the buffer: far beyond any last-level cache of a phone or laptop."""
PASSES: Final = 5


def measure_bandwidth(n_threads: int, *, size: int = SIZE, passes: int = PASSES) -> list[float]:
    """Read a buffer of `size` bytes with `n_threads` threads; bytes per second of each pass."""
    libc = ctypes.CDLL(None)
    scan = libc.memchr
    scan.argtypes, scan.restype = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t], ctypes.c_void_p
    buffer = bytearray(b"\1") * size
    view = (ctypes.c_char * size).from_buffer(buffer)
    address, part = ctypes.addressof(view), size // n_threads
    speeds = []
    for _ in range(passes):
        threads = [
            threading.Thread(target=scan, args=(address + i * part, 0, part))
            for i in range(n_threads)
        ]
        started = perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        speeds.append(part * n_threads / (perf_counter() - started))
    del view
    return speeds
