"""Ends an answer at texts that the caller chose, and keeps those texts out of it."""

from __future__ import annotations


class StopText:
    """Feed it the answer as it comes; what may be the start of a stop text is held back."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self.held = ""
        """Text that may be the start of a stop text."""
        self.found = False

    def feed(self, text: str) -> str:
        """What of the answer can be shown now; nothing after a stop text is."""
        if not self._stops:
            return text
        if self.found:
            return ""
        self.held += text
        starts = [at for stop in self._stops if (at := self.held.find(stop)) >= 0]
        if starts:
            self.found = True
            shown, self.held = self.held[: min(starts)], ""
            return shown
        at = len(self.held) - open_end(self.held, self._stops)
        shown, self.held = self.held[:at], self.held[at:]
        return shown

    def flush(self) -> str:
        """What was held back, at the end of the answer."""
        shown, self.held = self.held, ""
        return shown


def open_end(text: str, markers: tuple[str, ...]) -> int:
    """Length of the longest end of a text that one of the markers may begin with."""
    longest = max(map(len, markers), default=1) - 1
    for n in range(min(longest, len(text)), 0, -1):
        if any(marker.startswith(text[-n:]) for marker in markers):
            return n
    return 0
