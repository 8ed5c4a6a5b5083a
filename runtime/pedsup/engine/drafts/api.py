"""What the decoding loop asks of whoever guesses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Drafter(Protocol):
    """Guesses how a text goes on. May be wrong at no cost but time."""

    def draft(self, tokens: Sequence[int], pending: int, *, limit: int, row: int) -> list[int]:
        """Guess up to `limit` tokens after `tokens` and `pending`.

        Args:
            tokens: all tokens in the target's cache.
            pending: the token drawn last, which is not in the cache yet.
            row: which token of the target's last batch `tokens` ends with.
        """

    def set_threads(self, n_threads: int) -> None:
        """Use that many threads from the next draft on."""

    def close(self) -> None:
        """Free what it holds."""
