"""The digest of a whole model file, computed once per file and remembered.

Reading 5 GB takes a phone the better part of a minute, so what a full reading found is kept in
`~/.cache/pedsup/verified`, one small file per model, readable by its owner only. It holds for as
long as path, size, times, inode and header are those of that reading. Change time is among them:
a program without root cannot set it back, as it can the modification time.

Someone who can write into this cache can replace pedsup itself: it needs no signature.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pedsup.direct_io import DirectFile, sha256_range
from pedsup.errors import BadFileError, OutputError, UntrustedError
from pedsup.fsio import atomic_file
from pedsup.json_file import read_json_object
from pedsup.paths import cache_folder, make_private
from pedsup.progress import byte_bar, human_bytes, say
from pedsup.transcript import now
from pedsup.trust.store import path_digest

FORMAT: Final = 1
FOLDER: Final = "verified"
MAX_BYTES: Final = 1 << 16
SAY_ABOVE: Final = 1 << 30
"""Bytes from which the wait is explained."""


@dataclass(frozen=True)
class FileState:
    """What `stat` says of a file: enough to see that it was replaced or written to."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """The state of a file now (of what a link points to)."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def recorded_digest(path: Path, state: FileState, header: str) -> str | None:
    """The SHA-256 that an earlier full reading found, if the file is still that one.

    Args:
        header: the digest of the header (`ModelIdentity.digest`), read anew.
    """
    try:
        record = read_json_object(_record_path(path), "the record of a check", MAX_BYTES)
    except BadFileError:
        return None  # absent or damaged: the file is read again
    fits = (
        record.get("format") == FORMAT
        and record.get("path_sha256") == path_digest(path)
        and record.get("state") == asdict(state)
        and record.get("header_sha256") == header
        and isinstance(record.get("sha256"), str)
    )
    return record["sha256"] if fits else None


def read_digest(path: Path, state: FileState) -> str:
    """SHA-256 of the whole file, with a progress bar.

    Raises:
        UntrustedError: the file changed while it was read.
    """
    if state.size >= SAY_ABOVE:
        size = human_bytes(state.size)
        say(f"reading all of {path.name} ({size}) to check it; the next start need not")
    with byte_bar(state.size, "check") as bar:
        digest = sha256_range(DirectFile(path), 0, state.size, bar.update)
    require_same(path, state)
    return digest


def record_digest(path: Path, state: FileState, header: str, sha256: str) -> None:
    """Remember what a full reading found; where that cannot be kept the next start reads again."""
    record: dict[str, Any] = {
        "format": FORMAT,
        "path_sha256": path_digest(path),
        "state": asdict(state),
        "header_sha256": header,
        "sha256": sha256,
        "read": now(),
    }
    target = _record_path(path)
    try:
        make_private(target.parent, remedy="set XDG_CACHE_HOME")
        with atomic_file(target, private=True) as file:
            file.write(json.dumps(record).encode() + b"\n")
    except (OSError, OutputError) as error:
        say(f"note: the check cannot be remembered ({str(error).splitlines()[0]})")


def require_same(path: Path, state: FileState) -> None:
    """Raise `UntrustedError` if the file is not the one whose state was taken."""
    try:
        found = FileState.of(path)
    except OSError:
        found = None
    if found != state:
        raise UntrustedError(
            "the model file changed while it was being checked or loaded",
            where=path,
            wanted="a file that nobody writes to",
            remedy="keep models where other apps cannot write (in Termux: its own home), try again",
        )


def _record_path(path: Path) -> Path:
    return cache_folder() / FOLDER / f"{path_digest(path)[:40]}.json"
