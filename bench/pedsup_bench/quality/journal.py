"""Finished windows of a quality measurement, so that an interrupted run can continue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pedsup.files.journal import LineJournal
from pedsup_bench.quality.divergence import TokenFigures
from pedsup_bench.report.journal import open_journal

Window = tuple[str, int]
"""Text name and window number."""
Windows = LineJournal[tuple[Window, TokenFigures]]


def open_windows(key: dict[str, object], folder: Path | None = None) -> Windows:
    """The journal of the windows that are finished."""
    return open_journal("quality", key, _parse, folder)


def window_row(text: str, chunk: int, figures: TokenFigures) -> dict[str, object]:
    """A finished window as a line of the journal."""
    return {"text": text, "chunk": chunk, "figures": figures.to_lists()}


def _parse(row: Any) -> tuple[Window, TokenFigures]:
    return (row["text"], row["chunk"]), TokenFigures.from_lists(row["figures"])
