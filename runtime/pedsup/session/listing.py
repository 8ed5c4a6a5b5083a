"""The conversations that are kept: a line about each, and a search through what was said.

Transcripts are read without a lock and without mending them: one that is being written is listed
as far as it goes.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final

from pedsup.errors import PedsupError
from pedsup.files.json_file import parse_json
from pedsup.session.history import Session, replay
from pedsup.session.transcript import MAX_LINE, MAX_RECORDS, SUFFIX, read_records
from pedsup.texts.safe import label

SESSION_ID: Final = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")
"""How `history.new_session` names a conversation."""
MAX_SEARCHED: Final = 64 << 20
"""Bytes of transcripts that one search reads, the newest first."""
EXCERPT: Final = 60
"""Characters on each side of what was found."""
_LONG: Final = (b'{"type": "partial"', b'{"type": "assistant"')
"""The beginnings of lines that a list does not need."""


@dataclass(frozen=True)
class Summary:
    """One kept conversation, in a line."""

    id: str
    path: Path
    changed: str
    """UTC, ISO 8601: when it was last written."""
    title: str = ""
    """The name that it was given, else how its first question begins."""
    turns: int = 0
    """Questions, without those that were replaced."""
    model: str = ""
    digest: str | None = None
    """Digest of the model's header, from the transcript."""
    readable: bool = True
    size: int = 0


@dataclass(frozen=True)
class Hit:
    """A conversation in which something was found, and the words around it."""

    summary: Summary
    excerpt: str


def kept_path(folder: Path, identity: str) -> Path | None:
    """The transcript of an id in a folder; None if there is none."""
    if not SESSION_ID.fullmatch(identity):
        return None
    path = folder / (identity + SUFFIX)
    try:
        return path if stat.S_ISREG(path.lstat().st_mode) else None
    except OSError:
        return None


def summaries(folder: Path, limit: int) -> tuple[list[Summary], bool]:
    """The conversations of a folder, the last written first, and whether there are more."""
    found = []
    for path in folder.glob("*" + SUFFIX) if folder.is_dir() else []:
        if kept_path(folder, path.stem) is not None:
            try:
                found.append((path.stat().st_mtime_ns, path))
            except OSError:
                continue  # erased meanwhile
    found.sort(reverse=True)
    listed = filter(None, (summary(path) for _, path in found))
    rows = list(islice(listed, limit))
    return rows, next(listed, None) is not None


def search(folder: Path, text: str, limit: int) -> tuple[list[Hit], bool]:
    """Conversations that hold every word of `text`, whatever its accents and capitals, the last
    written first; and whether some were left out or not read."""
    words = _folded(text).split()
    rows, more = summaries(folder, limit=1000)
    hits: list[Hit] = []
    read = 0
    for row in rows:
        read += row.size
        if len(hits) == limit or read > MAX_SEARCHED:
            return hits, True
        excerpt = _excerpt(row, words) if row.readable else None
        if excerpt is not None:
            hits.append(Hit(row, excerpt))
    return hits, more


def title_of(session: Session) -> str:
    first = next((e.user for e in session.exchanges if not e.forgotten), "")
    return label(session.title or first)


def summary(path: Path) -> Summary | None:
    """What a list says of a transcript; None where it has vanished, or holds no line yet."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        found = Summary(path.stem, path, _utc(status.st_mtime), size=status.st_size)
        try:
            records = list(_short_records(file.readline, MAX_LINE + 1))
        except ValueError:
            return replace(found, readable=False)
    if not records:
        return None
    model = records[0].get("model")
    model = model if isinstance(model, dict) else {}
    digest = model.get("digest")
    title, questions = _told(records)
    return replace(
        found,
        title=label(title or next(iter(questions.values()), "")),
        turns=len(questions),
        model=label(str(model.get("name") or "")),
        digest=digest if isinstance(digest, str) else None,
    )


def _utc(seconds: float) -> str:
    """A file's time; the epoch for one that no calendar has."""
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        moment = datetime.fromtimestamp(0, UTC)
    return moment.isoformat(timespec="seconds")


def _short_records(readline: Callable[[int], bytes], size: int) -> Iterator[dict[str, object]]:
    """The records without answers; a torn last line is not there yet."""
    n = 0
    while (line := readline(size)).endswith(b"\n"):
        if (n := n + 1) > MAX_RECORDS:
            raise ValueError
        if line.startswith(_LONG):
            continue
        record = parse_json(line)
        if not isinstance(record, dict):
            raise ValueError
        yield record


def _told(records: list[dict[str, object]]) -> tuple[str, dict[int, str]]:
    """The name that was given, and the questions by turn, without those that were replaced."""
    title, turn = "", 0
    questions: dict[int, str] = {}
    for record in records:
        text = record.get("text")
        match record.get("type"), text if isinstance(text, str) else "":
            case "user", said:
                turn += 1
                questions[turn] = said
            case "title", said:
                title = said
            case "rewind", _:
                first = record.get("turn")
                if isinstance(first, int):
                    questions = {n: said for n, said in questions.items() if n < first}
    return title, questions


def _excerpt(row: Summary, words: list[str]) -> str | None:
    """Where the words are in a conversation; None if one of them is missing."""
    try:
        session = replay(read_records(row.path))
    except PedsupError:
        return None
    shown = [e for e in session.exchanges if not e.forgotten]
    said = "\n".join([session.title, *(part for e in shown for part in (e.user, e.answer))])
    plain = _folded(said)
    if not words or not all(word in plain for word in words):
        return None
    at = plain.index(words[0])
    begin, end = max(0, at - EXCERPT), at + len(words[0]) + EXCERPT
    text = " ".join(said[begin:end].split())
    return ("…" if begin else "") + text + ("…" if end < len(said) else "")


class _Bare(dict[int, str]):
    """Characters without accents and capitals, one for one; each is looked at once."""

    def __missing__(self, code: int) -> str:
        bare = unicodedata.normalize("NFKD", chr(code))[:1].lower()[:1] or chr(code)
        return self.setdefault(code, bare)


_BARE: Final = _Bare()


def _folded(text: str) -> str:
    """Without accents and capitals, but of the same length, so that positions stay valid."""
    return text.translate(_BARE)
