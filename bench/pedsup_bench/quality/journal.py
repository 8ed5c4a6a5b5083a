"""What was measured so far, one line per window, so that an interrupted run goes on."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from pedsup.gguf_file import read_header
from pedsup.paths import cache_folder
from pedsup_bench.quality.divergence import TokenFigures

Done = dict[tuple[str, int], TokenFigures]


class Journal:
    """Finished windows in a JSON-lines file whose name is the digest of all that decides them."""

    def __init__(self, key: dict[str, Any], folder: Path | None = None) -> None:
        text = json.dumps(key, sort_keys=True)
        folder = folder or cache_folder() / "quality"
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.jsonl"

    def read(self) -> Done:
        """Text name and window number -> figures. A line cut by a crash is dropped."""
        done: Done = {}
        if not self.path.is_file():
            return done
        good = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    row = json.loads(line)
                    done[row["text"], row["chunk"]] = TokenFigures.from_lists(row["figures"])
                except (ValueError, KeyError, TypeError):
                    break
                good += len(line)
        os.truncate(self.path, good)
        return done

    def append(self, text: str, chunk: int, figures: TokenFigures) -> None:
        """Add one window; it is on the disk when this returns."""
        row = {"text": text, "chunk": chunk, "figures": figures.to_lists()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def discard(self) -> None:
        """Forget what was measured."""
        self.path.unlink(missing_ok=True)


def file_identity(path: Path) -> dict[str, Any]:
    """What tells one model file from another without reading all of it.

    Size, time of change, and SHA-256 of the header (metadata and tensor table).
    """
    header = read_header(path)
    stat = path.stat()
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(header.data_offset)).hexdigest()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "header_sha256": digest}
