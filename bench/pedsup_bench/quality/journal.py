"""Finished windows of a quality measurement, so that an interrupted run can continue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pedsup_bench.quality.divergence import TokenFigures
from pedsup_bench.report.journal import LineJournal

Window = tuple[str, int]
"""Text name and window number."""


class Journal:
    """The figures of each finished window."""

    def __init__(self, key: dict[str, object], folder: Path | None = None) -> None:
        self._lines = LineJournal("quality", key, _parse, folder)
        self.path = self._lines.path

    def read(self) -> dict[Window, TokenFigures]:
        """Window -> figures. A line cut by a crash is dropped."""
        return dict(self._lines.read())

    def append(self, text: str, chunk: int, figures: TokenFigures) -> None:
        """Add one window; it is on the disk when this returns."""
        self._lines.append({"text": text, "chunk": chunk, "figures": figures.to_lists()})

    def discard(self) -> None:
        """Forget what was measured."""
        self._lines.discard()


def _parse(row: Any) -> tuple[Window, TokenFigures]:
    return (row["text"], row["chunk"]), TokenFigures.from_lists(row["figures"])
