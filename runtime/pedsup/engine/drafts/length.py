"""How many tokens to draft next, learnt from how the last drafts did."""

from __future__ import annotations

from typing import Final

START: Final = 2
"""Short: where arithmetic is slow, a wrong token costs as much as a right one."""
MAX_PAUSE: Final = 32
"""Steps without a draft after a row of drafts of which not one token was right."""


class DraftLength:
    """Doubles after a draft that was right to its end, shrinks to what was right else.

    Depends on counts alone, never on a clock: the same text is drafted the same way.
    """

    def __init__(self, n_max: int) -> None:
        self._n_max = n_max
        self._length = min(START, n_max)
        self._misses = self._pause = 0

    def next(self) -> int:
        """Tokens to draft now, 0 for none."""
        if self._pause:
            self._pause -= 1
            return 0
        return self._length

    def note(self, drafted: int, accepted: int) -> None:
        """Learn from a draft that was verified."""
        if accepted == drafted:
            self._length = min(2 * max(self._length, 1), self._n_max)
        else:
            self._length = max(1, accepted + 1 if accepted else self._length // 2)
            self._length = min(self._length, self._n_max)
        self._misses = 0 if accepted else self._misses + 1
        if self._misses > 1:
            self._pause = min(1 << (self._misses - 1), MAX_PAUSE)
