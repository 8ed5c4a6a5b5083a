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
        at = len(self.held) - self._open_end()
        shown, self.held = self.held[:at], self.held[at:]
        return shown

    def flush(self) -> str:
        """What was held back, at the end of the answer."""
        shown, self.held = self.held, ""
        return shown

    def _open_end(self) -> int:
        """Length of the longest end of the held text that a stop text begins with."""
        longest = max(len(stop) for stop in self._stops) - 1
        for n in range(min(longest, len(self.held)), 0, -1):
            if any(stop.startswith(self.held[-n:]) for stop in self._stops):
                return n
        return 0
