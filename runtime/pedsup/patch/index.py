"""The index of a patch file: of which file it makes which, and where what changed lies.

    magic 16 | u32 index, packed | u32 index, unpacked | u64 size of the file | SHA-256 of the index
    payload | index: JSON, deflated

Every size in it is compared with the file and with what a model can have before it sizes
anything. docs/patch.md describes the format.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from pedsup.errors import BadFileError
from pedsup.files.json_file import parse_json
from pedsup.gguf_file.header import open_regular
from pedsup.gguf_file.limits import MAX_HEADER, MAX_NAME, MAX_TENSORS
from pedsup.messages import message, reason_of
from pedsup.patch.streams import inflated
from pedsup.trust import bundle, manifest

MAGIC: Final = b"pedsup-patch/1\r\n"
PREFIX: Final = struct.Struct("<16sIIQ32s")
MAX_INDEX: Final = 4 << 20
"""Bytes of JSON: E4B's 720 tensors need 0.2 MB. Python takes up to 30 times as much for it."""
SPARE: Final = 1 << 10
"""Bytes that a packed part may be longer than what is in it."""
MAX_COPIES: Final = 1 << 16
PIECE: Final = 1 << 20
"""Bytes of tensor data that are changed at a time: as many whole blocks as fit."""
AGAIN: Final = message("the patch is damaged: copy it again from where it came from")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = re.compile(r"[^/\\\x00-\x1f.][^/\\\x00-\x1f]*\.gguf")
HOWS: Final = ("same", "delta", "whole")


@dataclass(frozen=True)
class Packed:
    """A part of the payload that is unpacked as one."""

    packed: int
    unpacked: int
    at: int = 0
    """Byte of the file where it starts."""


@dataclass(frozen=True)
class TensorPatch:
    """What becomes of one tensor of the new file."""

    name: str
    how: str
    """'same': copied; 'delta': differences of its blocks; 'whole': its new bytes."""
    sha256: str
    """Of its new bytes."""
    old_sha256: str | None
    """Of the bytes that it is made from."""
    packed: int = 0
    at: int = 0


@dataclass(frozen=True)
class OldFile:
    """The file that the patch is for."""

    name: str
    size: int
    header_sha256: str
    """`pedsup.trust.identity.header_digest`: the manifest's digest is in it, and so every byte."""
    sha256: str


@dataclass(frozen=True)
class PatchIndex:
    """A checked index."""

    path: Path
    digest: str
    """SHA-256 of the index, which holds that of the payload: the identity of the patch."""
    old: OldFile
    new_name: str
    new_size: int
    new_header_sha256: str
    payload_sha256: str
    payload_end: int
    copies: tuple[tuple[int, int], ...]
    """The new header: (byte of the old one, length), or (-1, length) for the next literal bytes."""
    literal: Packed
    manifest: Packed
    signature: Packed | None
    tensors: tuple[TensorPatch, ...]

    @property
    def header_bytes(self) -> int:
        """Length of the new header, its padding included."""
        return sum(length for _, length in self.copies)


def read_index(path: Path) -> tuple[PatchIndex, BinaryIO]:
    """The index of a patch, and the open file.

    Raises:
        MissingFileError: it does not exist.
        BadFileError: it is no patch, cut, damaged, or forged in a way that shows here.
    """
    file = open_regular(path, message("a patch of pedsup-export"))
    try:
        return _read(file, path), file
    except BaseException:
        file.close()
        raise


def _read(file: BinaryIO, path: Path) -> PatchIndex:
    size = os.fstat(file.fileno()).st_size
    head = file.read(PREFIX.size)
    if len(head) < PREFIX.size or not head.startswith(MAGIC):
        raise BadFileError(
            "this is not a patch",
            where=path,
            wanted="a file of `pedsup-export patch`",
            remedy="check the path; a part of a patch is joined first: pedsup-run join",
        )
    _, packed, unpacked, whole, digest = PREFIX.unpack(head)
    if whole != size:
        raise BadFileError(
            message("the patch has {size} bytes", size=size),
            where=path,
            wanted=f"{whole} bytes",
            remedy=AGAIN,
        )
    if not 0 < unpacked <= MAX_INDEX or not 0 < packed <= min(unpacked + SPARE, size - PREFIX.size):
        raise damaged(
            path, message("an index of {size} bytes, {more} unpacked", size=packed, more=unpacked)
        )
    file.seek(size - packed)
    raw = file.read(packed)
    if hashlib.sha256(raw).digest() != digest:
        raise damaged(path, "the index is not the one that was written")
    try:
        document = parse_json(inflated(raw, unpacked))
        return _index(document, path, digest.hex(), size - packed)
    except (ValueError, LookupError, TypeError) as error:
        raise damaged(
            path, message("the index cannot be used: {reason}", reason=reason_of(error))
        ) from error


def damaged(path: Path, found: str) -> BadFileError:
    """The error for bytes of a patch that cannot be."""
    return BadFileError(found, where=path, wanted="a whole patch", remedy=AGAIN)


def _index(document: Any, path: Path, digest: str, size: int) -> PatchIndex:
    """The document, checked: the sizes of the payload's parts add up to `size`, where it ends."""
    old, new = document["old"], document["new"]
    if document["schema"] != MAGIC.decode().strip():
        raise ValueError("another schema")
    at = PREFIX.size

    def part(entry: Any, limit: int) -> Packed:
        nonlocal at
        unpacked = _count(entry[1], limit)
        found = Packed(_count(entry[0], min(size, unpacked + SPARE)), unpacked, at)
        at += found.packed
        return found

    copies = tuple((_offset(a), _count(n, MAX_HEADER)) for a, n in document["header"])
    if len(copies) > MAX_COPIES or sum(n for _, n in copies) > MAX_HEADER:
        raise ValueError("the header is larger than any")
    literal = part(document["literal"], MAX_HEADER)
    if literal.unpacked != sum(n for a, n in copies if a < 0):
        raise ValueError("the header's new bytes do not add up")
    described = part(document["manifest"], manifest.MAX_BYTES)
    signature = document["signature"] and part(document["signature"], bundle.MAX_BYTES)
    tensors = []
    for entry in document["tensors"]:
        tensors.append(_tensor(entry, at, size))
        at += tensors[-1].packed
    if at != size:
        raise ValueError(message("its parts end at byte {at} of {size}", at=at, size=size))
    names = {tensor.name for tensor in tensors}
    if len(names) != len(tensors) or len(names) > MAX_TENSORS:
        raise ValueError("a tensor stands twice, or too many")
    return PatchIndex(
        path=path,
        digest=digest,
        payload_sha256=_sha256(document["payload_sha256"]),
        old=OldFile(
            checked_name(old["name"]),
            _count(old["size"], 1 << 62),
            _sha256(old["header_sha256"]),
            _sha256(old["sha256"]),
        ),
        new_name=checked_name(new["name"]),
        new_size=_count(new["size"], 1 << 62),
        payload_end=size,
        new_header_sha256=_sha256(new["header_sha256"]),
        copies=copies,
        literal=literal,
        manifest=described,
        signature=signature or None,
        tensors=tuple(tensors),
    )


def _tensor(entry: Any, at: int, size: int) -> TensorPatch:
    name, how, new, old, packed = entry
    if how not in HOWS or not isinstance(name, str) or not 0 < len(name.encode()) <= MAX_NAME:
        raise ValueError(
            message("a tensor {name} of kind {kind}", name=f"{name!r:.80}", kind=f"{how!r:.20}")
        )
    if (how == "whole") != (old is None) or (how == "same" and (packed or old != new)):
        raise ValueError(
            message("a tensor of kind '{kind}' with other fields than it has", kind=how)
        )
    made = old if old is None else _sha256(old)
    return TensorPatch(name, how, _sha256(new), made, _count(packed, size), at)


def _count(value: Any, limit: int) -> int:
    if type(value) is not int or not 0 <= value <= limit:
        raise ValueError(
            message(
                "a number of {value}, where at most {most} can be",
                value=f"{value!r:.40}",
                most=limit,
            )
        )
    return value


def _offset(value: Any) -> int:
    return -1 if value == -1 else _count(value, MAX_HEADER)


def _sha256(value: Any) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ValueError("a SHA-256 that is none")
    return value


def checked_name(value: Any) -> str:
    """A file's name that names nothing but a file of its folder. Raises ValueError otherwise."""
    if not isinstance(value, str) or not _NAME.fullmatch(value) or len(value.encode()) > 200:
        raise ValueError(message("a file named {name}", name=f"{value!r:.80}"))
    return value
