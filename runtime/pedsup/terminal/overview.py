"""What `pedsup-run` alone shows: the models on this device, the last conversation, what to do."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from pedsup.errors import PedsupError
from pedsup.escape import escaped
from pedsup.files.timestamp import local
from pedsup.messages import Message, message
from pedsup.progress import human_bytes
from pedsup.session.listing import Summary, summaries
from pedsup.session.transcript import read_records
from pedsup.texts.safe import label

RECENT: Final = 20
"""How many conversations are searched for their models."""
SHOWN: Final = 5
BEGINNING: Final = 1 << 16
MAGIC: Final = b"GGUF"


@dataclass(frozen=True)
class Overview:
    """The models and conversations on this device."""

    models: tuple[Path, ...]
    """Those of the last conversations first, then those of the folders."""
    last: Summary | None

    def lines(self) -> Iterator[Message]:
        if self.models:
            yield message("Hold a conversation:")
            for path in self.models:
                size = human_bytes(path.stat().st_size)
                yield message(
                    "  pedsup-run {path}  ({size})",
                    path=escaped(shlex.quote(_short(path))),
                    size=size,
                )
        else:
            yield message("No model is known here. Start one with: pedsup-run FILE.gguf")
        if self.last is not None:
            yield message(
                "Go on with the last conversation ({time}, {title}): pedsup-run --resume",
                time=local(self.last.changed),
                title=label(self.last.title) or message("no question yet"),
            )
            yield message("All conversations: pedsup-run sessions")
        yield message("Check this device: pedsup-run doctor")
        yield message("Everything else: pedsup-run --help")


def overview(history: Path, folders: tuple[Path, ...]) -> Overview:
    """Look at the transcripts and the folders; nothing is loaded."""
    recent, _ = summaries(history, RECENT)
    found: dict[Path, Path] = {}
    for path in (*_used(recent), *_lying(folders)):
        if _is_model(path):
            found.setdefault(path.resolve(), path)
    last = next((row for row in recent if row.readable), None)
    return Overview(tuple(islice(found.values(), SHOWN)), last)


def _used(rows: list[Summary]) -> Iterator[Path]:
    for row in rows:
        try:
            model = read_records(row.path)[0].get("model")
        except PedsupError:
            continue
        path = model.get("path") if isinstance(model, dict) else None
        if isinstance(path, str):
            yield Path(path)


def _lying(folders: tuple[Path, ...]) -> Iterator[Path]:
    for folder in folders:
        try:
            yield from sorted(p for p in folder.glob("*.gguf") if not p.name.startswith("."))
        except OSError:
            continue


def _is_model(path: Path) -> bool:
    """A glance at the beginning: a GGUF file that is not an adapter's."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            beginning = file.read(BEGINNING)
    except (OSError, ValueError):
        return False
    return beginning.startswith(MAGIC) and b"adapter.type" not in beginning


def _short(path: Path) -> str:
    """Relative to this folder where it is below it, else in full: it can be typed as it is."""
    try:
        return str(path.resolve().relative_to(Path.cwd().resolve()))
    except (ValueError, OSError):
        return str(path)
