"""The index of a patch file: which file it turns into which, and where the changes are.

    magic 16 | u32 index, packed | u32 index, unpacked | u64 size of the file | SHA-256 of the index
    payload | index: JSON, deflated

Every size in it is compared with the file and with what a model can have before it sizes
anything. docs/patch.md describes the format.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Final, Literal

from pedsup.errors import BadFileError
from pedsup.files.checks import Sha256, Size, file_name, within
from pedsup.files.records import record
from pedsup.files.source import Source, parsed_json
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
MODEL_NAME: Final = file_name(".gguf")
ModelName = Annotated[str, MODEL_NAME]


@dataclass(frozen=True)
class Packed:
    """A part of the payload that is unpacked as a whole."""

    packed: int
    unpacked: int
    at: int = 0
    """The byte of the file at which it starts."""


@dataclass(frozen=True)
class TensorPatch:
    """What becomes of one tensor of the new file."""

    name: str
    how: str
    """'same': copied; 'delta': differences of its blocks; 'whole': its new bytes."""
    sha256: str
    """SHA-256 of its new bytes."""
    old_sha256: str | None
    """SHA-256 of the bytes that it is made from."""
    packed: int = 0
    at: int = 0


@dataclass(frozen=True)
class OldFile:
    """The file that the patch is for."""

    name: ModelName
    size: Size
    header_sha256: Sha256
    """`pedsup.trust.identity.header_digest`: the manifest's digest is in it, and so every byte."""
    sha256: Sha256


@dataclass(frozen=True)
class NewFile:
    """The file that the patch makes."""

    name: ModelName
    size: Size
    header_sha256: Sha256


Row = tuple[str, Literal["same", "delta", "whole"], Sha256, Sha256 | None, Size]
"""Of a tensor: name, how, new digest, old digest, packed bytes."""


@dataclass(frozen=True)
class _Document:
    """The JSON of an index. Sizes of payloads are pairs: packed, unpacked."""

    schema: Literal["pedsup-patch/1"]
    old: OldFile
    new: NewFile
    payload_sha256: Sha256
    header: tuple[tuple[Annotated[int, within(-1, MAX_HEADER)], Size], ...]
    literal: tuple[Size, Size]
    manifest: tuple[Size, Size]
    signature: tuple[Size, Size] | None
    tensors: tuple[Row, ...]


@dataclass(frozen=True)
class PatchIndex:
    """A checked index."""

    path: Path
    digest: str
    """SHA-256 of the index, which holds that of the payload: the identity of the patch."""
    old: OldFile
    new: NewFile
    payload_sha256: str
    payload_end: int
    copies: tuple[tuple[int, int], ...]
    """The new header: (byte of the old one, length), or (-1, length) for the next literal bytes."""
    literal: Packed
    manifest: Packed
    signature: Packed | None
    tensors: tuple[TensorPatch, ...]


def read_index(path: Path) -> tuple[PatchIndex, BinaryIO]:
    """The index of a patch, and the open file.

    Raises:
        MissingFileError: it does not exist.
        BadFileError: it is not a patch, or it is cut, damaged, or forged in a way that shows here.
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
    source = Source("the index of the patch", path, only_known=False)
    try:
        unpacked_index = inflated(raw, unpacked)
        document = record(_Document, parsed_json(unpacked_index, source), source)
        return _index(document, path, digest.hex(), size - packed)
    except (ValueError, BadFileError) as error:
        raise damaged(
            path, message("the index cannot be used: {reason}", reason=reason_of(error))
        ) from error


def damaged(path: Path, found: str) -> BadFileError:
    """The error for impossible bytes in a patch."""
    return BadFileError(found, where=path, wanted="a whole patch", remedy=AGAIN)


def _index(document: _Document, path: Path, digest: str, size: int) -> PatchIndex:
    """The document, checked: the sizes of the payload's parts add up to `size`, where it ends."""
    copies = document.header
    if len(copies) > MAX_COPIES or sum(length for _, length in copies) > MAX_HEADER:
        raise ValueError("the header is larger than any")
    layout = _Layout(size)
    literal = layout.part(document.literal, MAX_HEADER)
    if literal.unpacked != sum(length for at, length in copies if at < 0):
        raise ValueError("the header's new bytes do not add up")
    described = layout.part(document.manifest, manifest.MAX_BYTES)
    signature = document.signature and layout.part(document.signature, bundle.MAX_BYTES)
    tensors = tuple(layout.tensor(row) for row in document.tensors)
    if layout.at != size:
        raise ValueError(message("its parts end at byte {at} of {size}", at=layout.at, size=size))
    names = {tensor.name for tensor in tensors}
    if len(names) != len(tensors) or len(names) > MAX_TENSORS:
        raise ValueError("a tensor stands twice, or too many")
    return PatchIndex(
        path=path,
        digest=digest,
        old=document.old,
        new=document.new,
        payload_sha256=document.payload_sha256,
        payload_end=size,
        copies=copies,
        literal=literal,
        manifest=described,
        signature=signature,
        tensors=tensors,
    )


@dataclass
class _Layout:
    """Where the parts of a payload of `size` bytes are, one after the other."""

    size: int
    at: int = PREFIX.size

    def part(self, sizes: tuple[int, int], limit: int) -> Packed:
        unpacked = _count(sizes[1], limit)
        packed = _count(sizes[0], min(self.size, unpacked + SPARE))
        self.at += packed
        return Packed(packed, unpacked, self.at - packed)

    def tensor(self, row: Row) -> TensorPatch:
        name, how, new, old, packed = row
        if not 0 < len(name.encode()) <= MAX_NAME:
            raise ValueError(
                message("a tensor {name} of kind {kind}", name=f"{name!r:.80}", kind=how)
            )
        if (how == "whole") != (old is None) or (how == "same" and (packed or old != new)):
            raise ValueError(
                message("a tensor of kind '{kind}' with other fields than it has", kind=how)
            )
        self.at += _count(packed, self.size)
        return TensorPatch(name, how, new, old, packed, self.at - packed)


def _count(value: int, limit: int) -> int:
    if value > limit:
        raise ValueError(
            message("a number of {value}, where at most {most} can be", value=value, most=limit)
        )
    return value


def checked_name(value: str) -> str:
    """A file's name that names nothing but a model file of its folder; else raises `ValueError`."""
    if not MODEL_NAME.holds(value):
        raise ValueError(message("a file named {name}", name=f"{value!r:.80}"))
    return value
