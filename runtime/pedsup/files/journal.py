"""A journal: one JSON line for each finished piece of work, so that a killed job can continue."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from pedsup.errors import BadFileError
from pedsup.files.fsio import sync_file
from pedsup.files.json_file import parse_json

Item = TypeVar("Item")


class LineJournal(Generic[Item]):
    """A file of JSON lines to which finished work is appended.

    Args:
        path: the file; its folder exists.
        parse: one item from the value of a line; any of `ValueError`, `LookupError`, `TypeError`
            and `BadFileError` says that it is not valid.
        head: what the journal belongs to, as its first line says; None: its name says it.
    """

    def __init__(
        self, path: Path, parse: Callable[[object], Item], *, head: object | None = None
    ) -> None:
        self.path = path
        self._parse = parse
        self._head = b"" if head is None else json.dumps(head).encode() + b"\n"

    def read(self) -> list[Item]:
        """All items in order; none if the journal belongs to something else.

        A line that a crash cut, or that is not valid, is cut off with all that follows it.
        """
        items: list[Item] = []
        if not self.path.is_file():
            return items
        with self.path.open("rb") as file:
            if file.read(len(self._head)) != self._head:
                return items
            good = len(self._head)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    items.append(self._parse(parse_json(line)))
                except (ValueError, LookupError, TypeError, BadFileError):
                    break
                good += len(line)
            whole = good == os.fstat(file.fileno()).st_size
        if not whole:
            os.truncate(self.path, good)
        return items

    def start(self) -> None:
        """Begin anew, in a new file: what has the name may be a link."""
        self.path.unlink(missing_ok=True)
        self.path.write_bytes(self._head)

    def append(self, row: Mapping[str, object], *, durable: bool = True) -> None:
        """Add one line.

        Args:
            durable: it is on the disk when this returns.
        """
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            if durable:
                file.flush()
                sync_file(file.fileno())

    def discard(self) -> None:
        """Remove the journal."""
        self.path.unlink(missing_ok=True)
