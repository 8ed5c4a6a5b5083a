"""What was measured so far, one JSON line each, so that an interrupted run can continue."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Generic, TypeVar

from pedsup.errors import BadFileError
from pedsup.files.fsio import sync_file
from pedsup.files.paths import cache_folder
from pedsup.gguf_file import read_header
from pedsup.session.prefix_cache import StateKey

Item = TypeVar("Item")


class LineJournal(Generic[Item]):
    """A JSON-lines file in the cache whose name is the digest of all that decides its content.

    Args:
        kind: the folder below the cache.
        key: model, texts, settings; anything that JSON can hold.
        parse: one item from one line's value; BadFileError or ValueError if it is not valid.
    """

    def __init__(
        self, kind: str, key: object, parse: Callable[[object], Item], folder: Path | None = None
    ) -> None:
        folder = folder or cache_folder() / kind
        folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self.path = folder / f"{digest[:32]}.jsonl"
        self._parse = parse

    def read(self) -> list[Item]:
        """All items in order; a line cut by a crash, and what follows it, is dropped."""
        items: list[Item] = []
        if not self.path.is_file():
            return items
        good = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    items.append(self._parse(json.loads(line)))
                except (ValueError, BadFileError):
                    break
                good += len(line)
        os.truncate(self.path, good)
        return items

    def append(self, row: dict[str, object]) -> None:
        """Add one line; it is on the disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            sync_file(file.fileno())

    def discard(self) -> None:
        """Forget what was measured."""
        self.path.unlink(missing_ok=True)


def pair_identity(model: Path, adapter: Path | None) -> dict[str, object]:
    """`file_identity` of a model, and of the adapter applied to it."""
    if adapter is None:
        return file_identity(model)
    return {**file_identity(model), "adapter": file_identity(adapter)}


def file_identity(path: Path) -> dict[str, object]:
    """What distinguishes one model file from another without reading all of it.

    Size, time of change, and SHA-256 of the header (metadata and tensor table) and of 64 pieces of
    the weights.
    """
    return asdict(StateKey.of(read_header(path)))
