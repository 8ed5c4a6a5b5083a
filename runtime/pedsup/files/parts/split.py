"""Splits a file into parts, each whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from pedsup.errors import UsageError
from pedsup.files.checks import MAX_NAME, file_name
from pedsup.files.fsio import atomic_file, refuse_existing
from pedsup.files.parts.head import LENGTH, MAGIC, MAX_HEAD, MAX_PARTS, PartHead, blocks
from pedsup.messages import message


def write_parts(path: Path, folder: Path, part_bytes: int, *, force: bool = False) -> list[Path]:
    """Split a file into parts of at most `part_bytes`, heads included.

    Raises:
        UsageError: there would be too many parts, or `join` would not take the file's name.
        OutputError: a part exists.
    """
    if not file_name().holds(path.name):
        raise UsageError(
            "the parts could not be joined: the file's name is hidden, too long or not plain",
            where=path,
            wanted=message("a name of at most {n} bytes without a dot in front", n=MAX_NAME),
            remedy="rename the file",
        )
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        room = part_bytes - len(MAGIC) - LENGTH.size - MAX_HEAD
        n = _n_parts(size, room, part_bytes)
        width = max(2, len(str(n)))
        parts = [folder / f"{path.name}.part{i:0{width}d}of{n:0{width}d}" for i in range(1, n + 1)]
        sha256 = _sha256(file, 0, size)
        for part in parts:
            refuse_existing(part, force=force)
        for i, part in enumerate(parts):
            begin = i * room
            length = min(room, size - begin)
            own = _sha256(file, begin, length)
            _write_part(part, file, PartHead(path.name, size, sha256, i + 1, n, begin, length, own))
    return parts


def _n_parts(size: int, room: int, part_bytes: int) -> int:
    n = max(1, -(-size // room)) if room > 0 else 0
    if not 1 <= n <= MAX_PARTS:
        raise UsageError(
            message("parts of {size} bytes for a file of {total}", size=part_bytes, total=size),
            wanted=message(
                "at most {count} parts of more than {size} bytes", count=MAX_PARTS, size=MAX_HEAD
            ),
            remedy="give a larger --size",
        )
    return n


def _write_part(part: Path, file: BinaryIO, head: PartHead) -> None:
    raw = json.dumps(asdict(head), ensure_ascii=False).encode()
    with atomic_file(part) as out:
        out.write(MAGIC + LENGTH.pack(len(raw)) + raw)
        for block in blocks(file, head.begin, head.length):
            out.write(block)


def _sha256(file: BinaryIO, begin: int, length: int) -> str:
    digest = hashlib.sha256()
    for block in blocks(file, begin, length):
        digest.update(block)
    return digest.hexdigest()
