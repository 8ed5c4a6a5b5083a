"""The journal of an export: which tensors are complete, so that a killed export can continue."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


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
        if not self.path.is_file():
            return []
        done: list[Entry] = []
        try:
            lines = self.path.read_text(encoding="utf-8").split("\n")
            if json.loads(lines[0]) != {"plan": plan_digest}:
                return []
            for line in lines[1:-1]:  # what follows the last newline was torn by the kill
                entry = json.loads(line)
                done.append(Entry(entry["tensor"], entry["sha256"], entry["inputs"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            return []
        return done

    def start(self, plan_digest: str) -> None:
        """Begin again in a new file: what has the name may be a link."""
        self.path.unlink(missing_ok=True)
        self.path.write_text(json.dumps({"plan": plan_digest}) + "\n", encoding="utf-8")

    def add(self, entry: Entry) -> None:
        """Record a tensor whose bytes were handed to the system."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(vars(entry)) + "\n")
