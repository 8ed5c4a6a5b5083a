"""Let threads through one at a time, in an order fixed beforehand."""

from __future__ import annotations

import threading
from typing import Any


class StoppedError(Exception):
    """Another thread gave up the work, and reports why."""


class Turnstile:
    """Places in order; each is passed once. A thread waits at its own until it is reached.

    Work that must happen in order (a SHA-256) is done by whichever thread has the bytes at hand,
    while they are in its cache.
    """

    def __init__(self, first: Any) -> None:
        self.at: Any = first
        self._stopped = False
        self._changed = threading.Condition()

    def enter(self, place: Any) -> bool:
        """Wait until `place` is reached; False at once if it was passed before.

        Raises:
            StoppedError: `stop` was called.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self.at >= place)
            if self._stopped:
                raise StoppedError
            return bool(self.at == place)

    def leave(self, following: Any) -> None:
        """Let the next one in. Only for the thread that entered last."""
        with self._changed:
            self.at = following
            self._changed.notify_all()

    def stop(self) -> None:
        """Wake all that wait, with an error."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
