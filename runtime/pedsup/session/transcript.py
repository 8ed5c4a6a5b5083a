"""The file of a session: one JSON object per line, appended and fsynced, locked while open.

    {"type": "session", "schema": 1, "id": ..., "model": {...}, "template": ..., "settings": {...}}
    {"type": "system", "text": ...}
    {"type": "user", "turn": 1, "text": ..., "pictures": [{"sha256": ..., "width": ..., ...}]}
    {"type": "partial", "turn": 1, "reasoning": ..., "answer": ...}     pieces since the last one
    {"type": "assistant", "turn": 1, "answer": ..., "reasoning": ..., "stop_reason": ...}
    {"type": "reset"}                                          later turns do not see earlier ones
    {"type": "rewind", "turn": 2}                              nor these: turn 2 and what follows it
    {"type": "title", "text": ...}                             the name that the user gave it
    {"type": "settings", "settings": {...}}                    how later answers are generated
    {"type": "recovered", "torn": ...}       what a kill or a power cut left of an unwritten line

Times are UTC. This module knows lines; `pedsup.session.history` knows what they mean.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from pedsup.errors import BadFileError, OutputError, UsageError, from_os_error
from pedsup.files.fsio import fsync_folder, sync_file, try_lock
from pedsup.files.json_file import parse_json, read_bounded
from pedsup.files.timestamp import now
from pedsup.messages import message, reason_of

SCHEMA: Final = 1
SUFFIX: Final = ".jsonl"
MAX_LINE: Final = 1 << 26
"""Bytes; a longer line was not written by this program."""

MAX_RECORDS: Final = 1 << 18
"""Lines: a day and a half of answers, two lines each second. Short ones take fifty times their
length in memory."""
MAX_BYTES: Final = 1 << 28
"""Of a whole transcript: years of a conversation."""

Record = dict[str, object]


class InUseError(OutputError):
    """Another session holds this transcript."""


class Transcript:
    """An open, locked transcript. `append` returns when the line is on the disk."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path, self._fd = path, fd

    @classmethod
    def create(cls, path: Path, first: Record) -> Transcript:
        """Make a new transcript, readable by its owner only.

        Raises:
            OutputError: it exists, or the folder cannot be written.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        transcript = cls(path, _open(path, flags))
        transcript._lock()
        transcript.append({"type": "session", "schema": SCHEMA, **first})
        fsync_folder(path.parent)
        return transcript

    @classmethod
    def reopen(cls, path: Path) -> tuple[Transcript, list[Record]]:
        """Lock an existing transcript, mend a torn last line, and read its records.

        Raises:
            InUseError: another session has it open.
            OutputError: it cannot be written.
            BadFileError: a line before the last one is damaged, or it is not a transcript.
        """
        transcript = cls(path, _open(path, os.O_RDWR | os.O_CLOEXEC))
        try:
            transcript._lock()
            records, torn_at, torn = _parse(path, _read_all(transcript._fd, path))
            if torn:
                transcript._mend(torn_at, torn, records)
            os.lseek(transcript._fd, 0, os.SEEK_END)
            return transcript, records
        except BaseException:
            transcript.close()
            raise

    def append(self, record: Record, *, durable: bool = True) -> None:
        """Write one line; with `durable` it survives a power cut, without it a kill.

        Raises:
            PedsupError: it cannot be written (disk full); the file is as it was before.
        """
        at = os.lseek(self._fd, 0, os.SEEK_END)
        try:
            _write_all(self._fd, _line(record))
            if durable:
                sync_file(self._fd)
        except OSError as error:
            # Half a line would be damage as soon as another one follows it.
            with suppress(OSError):
                os.ftruncate(self._fd, at)
            error.filename = str(self.path)
            raise from_os_error(error) from error

    def close(self) -> None:
        """Release the lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _lock(self) -> None:
        if try_lock(self._fd) is False:
            raise InUseError(
                "this conversation is open in another session",
                where=self.path,
                remedy="end that session first, or start a new one without --resume",
            )

    def _mend(self, at: int, torn: bytes, records: list[Record]) -> None:
        """Replace a torn last line by a record that holds its bytes: nothing is thrown away."""
        record: Record = {
            "type": "recovered",
            "time": now(),
            "torn": torn.decode("utf-8", "replace"),
        }
        os.lseek(self._fd, at, os.SEEK_SET)
        _write_all(self._fd, _line(record))
        # The record holds the torn text, escaped: it is never shorter than what it replaces.
        sync_file(self._fd)
        records.append(record)


def read_records(path: Path) -> list[Record]:
    """The whole records of a transcript, without a lock and without mending it.

    Raises:
        BadFileError: it is not a transcript, or is damaged before its last line.
    """
    if not path.exists():
        raise UsageError("there is no such transcript", where=path, remedy="check --resume")
    return _parse(path, read_bounded(path, "the transcript", MAX_BYTES))[0]


def _line(record: Record) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _parse(path: Path, data: bytes) -> tuple[list[Record], int, bytes]:
    """The records, and where a torn last line starts with its bytes (empty when whole)."""
    records: list[Record] = []
    at = 0
    while at < len(data):
        end = data.find(b"\n", at)
        line = data[at:] if end < 0 else data[at:end]
        record = _record(line) if end >= 0 else None
        if record is None:
            last = end < 0 or end == len(data) - 1
            if not last or not records:
                raise BadFileError(
                    message("line {n} is not a record of a session", n=len(records) + 1),
                    where=path,
                    wanted="one JSON object per line, each with a 'type'",
                    remedy="the file was left as it is: correct that line, or start a new session",
                )
            return records, at, data[at:]
        if len(records) == MAX_RECORDS:
            raise BadFileError(
                message("a transcript of more than {n} lines", n=MAX_RECORDS),
                where=path,
                remedy="choose another --resume, or start a new session",
            )
        records.append(record)
        at = end + 1
    _check_first(path, records)
    return records, len(data), b""


def _record(line: bytes) -> Record | None:
    if len(line) > MAX_LINE:
        return None
    try:
        value = parse_json(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and isinstance(value.get("type"), str) else None


def _check_first(path: Path, records: list[Record]) -> None:
    first = records[0] if records else {}
    if first.get("type") != "session" or first.get("schema") != SCHEMA:
        raise BadFileError(
            "this is not a transcript that this version can read",
            where=path,
            wanted=message("a first line of type 'session' with schema {n}", n=SCHEMA),
            remedy="choose another --resume, or start a new session",
        )


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags, 0o600)
    except OSError as error:
        missing = error.errno == errno.ENOENT and not flags & os.O_CREAT
        kind = UsageError if missing else OutputError
        raise kind(
            message("the session's transcript cannot be opened: {reason}", reason=reason_of(error)),
            where=path,
            remedy="give --no-history to work without a transcript, or --history-dir FOLDER",
        ) from error


def _read_all(fd: int, path: Path) -> bytes:
    """What a transcript holds; the file is known to be regular."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
        raise BadFileError(
            message("not a regular file, or one of {n} bytes", n=status.st_size),
            where=path,
            wanted=message("a transcript of at most {n} bytes", n=MAX_BYTES),
            remedy="choose another --resume, or start a new session",
        )
    os.lseek(fd, 0, os.SEEK_SET)
    parts = []
    while block := os.read(fd, 1 << 20):
        parts.append(block)
    return b"".join(parts)


def _write_all(fd: int, data: bytes) -> None:
    """One write call in the ordinary case: a SIGKILL then falls before or after the line."""
    while data:
        data = data[os.write(fd, data) :]
