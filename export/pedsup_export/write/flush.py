"""What was written is brought to the disk in the background, so that the last fsync is short."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor

FLUSH_EVERY = 128 << 20
"""Bytes after which the disk is given work."""


class Flush:
    """Brings what was written to the disk in the background, every so often."""

    def __init__(self) -> None:
        self._n_bytes: Counter[int] = Counter()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="flush")
        self._last: Future[None] | None = None

    def __enter__(self) -> Flush:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def wrote(self, fd: int, n_bytes: int) -> None:
        """Note what was written to a file; raises what the disk said of earlier bytes."""
        self._n_bytes[fd] += n_bytes
        if self._n_bytes[fd] >= FLUSH_EVERY and (self._last is None or self._last.done()):
            self.finish()
            self._n_bytes[fd], self._last = 0, self._pool.submit(os.fdatasync, fd)

    def finish(self) -> None:
        """Wait for the disk; an error that it reports here it reports no second time."""
        if self._last is not None:
            self._last.result()
            self._last = None
