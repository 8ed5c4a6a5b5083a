"""The journal of an export: which tensors are complete, so that a killed export can continue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pedsup.files.journal import LineJournal


@dataclass(frozen=True)
class Entry:
    """A complete tensor: the digest of its bytes, and the mark of the inputs they came from."""

    tensor: str
    sha256: str
    inputs: str


@dataclass
class Journal:
    """The record of complete tensors, one JSON line each, after a line with the plan's digest."""

    path: Path

    def read(self, plan_digest: str) -> list[Entry]:
        """The tensors that were complete, in that order; none for another plan."""
        return self._lines(plan_digest).read()

    def start(self, plan_digest: str) -> None:
        """Begin anew."""
        self._lines(plan_digest).start()

    def add(self, entry: Entry) -> None:
        """Record a tensor whose bytes were handed to the system."""
        LineJournal(self.path, _entry).append(vars(entry), durable=False)

    def _lines(self, plan_digest: str) -> LineJournal[Entry]:
        return LineJournal(self.path, _entry, head={"plan": plan_digest})


def _entry(row: Any) -> Entry:
    return Entry(row["tensor"], row["sha256"], row["inputs"])
