"""The journal of an export: which tensors are complete, so that a killed export can continue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from pedsup.files.journal import LineJournal


@dataclass(frozen=True)
class Entry:
    """A complete tensor: the digest of its bytes, and the mark of the inputs they came from."""

    tensor: str
    sha256: str
    inputs: str


Journal: TypeAlias = LineJournal[Entry]
"""One JSON line for each complete tensor, in their order, after a line with the plan's digest."""


def open_journal(path: Path, plan_digest: str) -> Journal:
    """The journal of a plan; it reads nothing of another plan's."""
    return LineJournal(path, _entry, head={"plan": plan_digest})


def _entry(row: Any) -> Entry:
    return Entry(row["tensor"], row["sha256"], row["inputs"])
