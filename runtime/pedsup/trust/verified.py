"""The digest of a whole model file, computed once per file and remembered.

Reading 5 GB takes a phone the better part of a minute, so what a full reading found is kept in
`~/.cache/pedsup/verified`, one small file per model, readable by its owner only. It holds for as
long as path, size, times, device, inode and header are those of that reading. Change time is among
them: a program without root cannot set it back, as it can the modification time. Where a write
need not change it, the digests of all blocks are kept and compared too (`pedsup.trust.blocks`).

Someone who can write into this cache can replace pedsup itself: it needs no signature.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pedsup.errors import BadFileError, OutputError, UntrustedError
from pedsup.files.checks import Sha256
from pedsup.files.direct_io import BLOCK, DirectFile
from pedsup.files.paths import cache_folder, write_private
from pedsup.files.records import json_record
from pedsup.files.source import Source
from pedsup.files.timestamp import now
from pedsup.messages import message, reason_of
from pedsup.progress import byte_bar, human_bytes, say
from pedsup.trust import blocks
from pedsup.trust.blocks import block_digests, times_prove
from pedsup.trust.store import path_digest

FORMAT: Final = 2
FOLDER: Final = "verified"
MAX_BYTES: Final = 4 << 20
"""A 64 GiB model has 2 MiB of block digests."""
SAY_ABOVE: Final = 1 << 30
"""Bytes from which the wait is explained."""


@dataclass(frozen=True)
class FileState:
    """What `stat` reports about a file: enough to see that it was replaced or written to."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """The state of a file now (of what a link points to)."""
        status = path.stat()
        return cls(
            status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev
        )


@dataclass(frozen=True)
class Reading:
    """What a full reading found."""

    sha256: str
    blocks: tuple[bytes, ...] | None = None
    """Digests of its blocks; None where the file's times are proof enough."""


@dataclass(frozen=True)
class _Record:
    """A reading as it is kept."""

    format: int
    path_sha256: str
    state: FileState
    header_sha256: str
    sha256: Sha256
    blocks: str | None
    read: str


def recorded_reading(path: Path, state: FileState, header: str) -> Reading | None:
    """What an earlier full reading found, if the file is still that one as far as its state says.

    Args:
        header: the digest of the header (`ModelIdentity.digest`), read anew.
    """
    try:
        file = _record_path(path)
        found = json_record(_Record, file, Source("the record of a check", file), MAX_BYTES)
    except BadFileError:
        return None  # absent, damaged or of another version: the file is read again
    as_now = (FORMAT, path_digest(path), state, header)
    if (found.format, found.path_sha256, found.state, found.header_sha256) != as_now:
        return None
    known = _blocks(found.blocks, state.size)
    # A file without them, on a file system where they are needed, is read again.
    return Reading(found.sha256, known) if known or times_prove(path) else None


def read_in_full(path: Path, state: FileState) -> Reading:
    """Read the whole file, with a bar. Raises `UntrustedError` if it changed meanwhile."""
    if state.size >= SAY_ABOVE:
        size = human_bytes(state.size)
        say(
            message(
                "reading all of {name} ({size}) to check it; the next start will not need to",
                name=path.name,
                size=size,
            )
        )
    parts: list[bytes] | None = None if times_prove(path) else []
    digest, at = hashlib.sha256(), 0
    file = DirectFile(path)
    file.sync()  # a page that a mapping wrote to is clean then: the next write shows in ctime
    with byte_bar(state.size, "check") as bar:
        while block := file.read(at, BLOCK):
            digest.update(block)
            if parts is not None:
                parts += block_digests(block)  # it is read in whole blocks
            at += len(block)
            bar.update(len(block))
    require_same(path, state)
    return Reading(digest.hexdigest(), None if parts is None else tuple(parts))


def record_reading(path: Path, state: FileState, header: str, reading: Reading) -> None:
    """Remember what a full reading found; where that cannot be kept the next start reads again."""
    blocks_hex = None if reading.blocks is None else b"".join(reading.blocks).hex()
    record = _Record(FORMAT, path_digest(path), state, header, reading.sha256, blocks_hex, now())
    try:
        write_private(_record_path(path), asdict(record), remedy="set XDG_CACHE_HOME")
    except (OSError, OutputError) as error:
        say(
            message(
                "note: the result of the check could not be saved ({reason})",
                reason=reason_of(error),
            )
        )


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
            remedy="keep models where other apps cannot write (in Termux: its home folder) "
            "and try again",
        )


def _blocks(text: str | None, size: int) -> tuple[bytes, ...] | None:
    """The block digests of a record; None if they are absent or do not fit the file."""
    try:
        raw = bytes.fromhex(text or "")
    except ValueError:
        return None
    if not raw or len(raw) != -(-size // blocks.BLOCK) * blocks.DIGEST_BYTES:
        return None
    return tuple(
        raw[at : at + blocks.DIGEST_BYTES] for at in range(0, len(raw), blocks.DIGEST_BYTES)
    )


def _record_path(path: Path) -> Path:
    return cache_folder() / FOLDER / f"{path_digest(path)[:40]}.json"
