"""The parts of a split file: each names the whole it belongs to and can be checked alone.

    magic 16 | u32 length of the head | head: JSON | the bytes
    head  {"name", "size", "sha256"} of the whole file; "part", "parts"; "begin", "length" and
          "part_sha256" of the bytes that follow

Parts are joined in whatever order they are given, under whatever names a messenger gave them.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from pedsup.errors import BadFileError, OutputError
from pedsup.files.checks import FileName, Sha256, Size
from pedsup.files.records import record
from pedsup.files.source import Source, parsed_json
from pedsup.messages import message

MAGIC: Final = b"pedsup-part/1\r\n\0"
LENGTH: Final = struct.Struct("<I")
MAX_HEAD: Final = 4096
MAX_PARTS: Final = 10_000
BLOCK: Final = 1 << 20
AGAIN: Final = message("get this part again from where it came from")


@dataclass(frozen=True)
class PartHead:
    """What a part says about itself and its whole."""

    name: FileName
    size: Size
    sha256: Sha256
    part: Size
    """From 1."""
    parts: Size
    begin: Size
    length: Size
    part_sha256: Sha256

    def __post_init__(self) -> None:
        placed = 1 <= self.part <= self.parts <= MAX_PARTS
        if not placed or self.begin + self.length > self.size:
            raise ValueError("its place in the whole is not possible")

    @property
    def of(self) -> tuple[str, int, str]:
        """The file that was split: its name, size and SHA-256."""
        return self.name, self.size, self.sha256

    @property
    def whole(self) -> tuple[str, int, str, int]:
        """What all parts of one split have in common."""
        return *self.of, self.parts


@dataclass(frozen=True)
class Part:
    """A part on the disk whose head was checked, but not its bytes."""

    path: Path
    head: PartHead
    data_at: int


def read_part(path: Path) -> Part:
    """The head of a part. Raises `BadFileError` for what is not a part, was cut, or cannot be."""
    with path.open("rb") as file:
        raw = file.read(len(MAGIC) + LENGTH.size)
        if len(raw) < len(MAGIC) + LENGTH.size or not raw.startswith(MAGIC):
            raise BadFileError(
                "this is not a part of a split file",
                where=path,
                wanted="a file of `pedsup-export split`",
                remedy="leave it out",
            )
        (length,) = LENGTH.unpack(raw[len(MAGIC) :])
        head = _head(file.read(min(length, MAX_HEAD)), path)
        size = os.fstat(file.fileno()).st_size
    data_at = len(MAGIC) + LENGTH.size + length
    if size != data_at + head.length:
        raise BadFileError(
            message(
                "part {part} of {parts} has {size} bytes",
                part=head.part,
                parts=head.parts,
                size=size,
            ),
            where=path,
            wanted=f"{data_at + head.length} bytes",
            remedy=AGAIN,
        )
    return Part(path, head, data_at)


def _head(raw: bytes, path: Path) -> PartHead:
    source = Source("the head of this part", path, only_known=False)
    try:
        return record(PartHead, parsed_json(raw, source), source)
    except BadFileError as error:
        raise BadFileError(
            message("the head of this part is damaged: {reason}", reason=error.found),
            where=path,
            wanted=error.wanted,
            remedy=AGAIN,
        ) from error


def blocks(file: BinaryIO, begin: int, length: int) -> Iterator[bytes]:
    file.seek(begin)
    while length:
        block = file.read(min(BLOCK, length))
        if not block:
            raise OutputError("the file was cut while it was read", where=file.name)
        length -= len(block)
        yield block
