"""Drafts by prompt lookup: what followed the last tokens when they stood in the text before.

Free of cost, and right whenever a model quotes its prompt, repeats names and doses, or writes
JSON with the same keys again. https://github.com/apoorvumang/prompt-lookup-decoding
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

NGRAM: Final = 3
"""Tokens that must be equal; two are equal by chance too often."""
CANDIDATES: Final = 4
"""Earlier places that are compared further back; the longest match wins, then the latest."""
MAX_MATCH: Final = 32


class PromptLookup:
    """A `Drafter` that knows only the text itself."""

    def __init__(self) -> None:
        self._text: list[int] = []
        self._ends: dict[tuple[int, ...], list[int]] = {}
        """For each n-gram: the places right after it, the latest last."""

    def draft(self, tokens: Sequence[int], pending: int, *, limit: int, row: int) -> list[int]:
        self._follow(tokens)
        text = self._text
        places = self._ends.get((*text[1 - NGRAM :], pending), ())
        best, longest = -1, 0
        for place in reversed(places[-CANDIDATES:]):
            length = self._match(place)
            if length > longest:
                best, longest = place, length
        if best < 0:
            return []
        found: list[int] = []
        whole = [*text, pending]
        # A match that runs into its own end goes on with what it copied: "abab" -> "abab...".
        for place in range(best, best + limit):
            found.append(whole[place] if place < len(whole) else found[place - len(whole)])
        return found

    def set_threads(self, n_threads: int) -> None:
        """It needs none."""

    def close(self) -> None:
        """Nothing is held."""

    def _follow(self, tokens: Sequence[int]) -> None:
        """Note what is new; a text that was cut or changed is noted afresh."""
        text = self._text
        if tokens[: len(text)] != text:
            text.clear()
            self._ends.clear()
        start = len(text)
        text.extend(tokens[start:])
        for end in range(max(start, NGRAM - 1) + 1, len(text) + 1):
            self._ends.setdefault(tuple(text[end - NGRAM : end]), []).append(end)

    def _match(self, place: int) -> int:
        """How many tokens before `place` equal the text's last ones, the pending one included."""
        text, length = self._text, 1
        while (
            length < MAX_MATCH
            and length < place
            and text[place - 1 - length] == text[len(text) - length]
        ):
            length += 1
        return length
