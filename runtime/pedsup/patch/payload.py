"""The payload of a patch: parts that are unpacked as one, and what it does to tensors, by steps."""

from __future__ import annotations

import hashlib
import lzma
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from pedsup.gguf_file import GGUFHeader, TensorInfo
from pedsup.messages import message, reason_of
from pedsup.patch.arithmetic import changed
from pedsup.patch.index import PIECE, PREFIX, SPARE, Packed, PatchIndex, TensorPatch, damaged
from pedsup.patch.layouts import layout_of
from pedsup.patch.streams import METHODS, unpacked
from pedsup.progress import byte_bar

_STREAM: Final = struct.Struct("<BI")
_BLOCK: Final = 1 << 20
_XZ_MEMORY: Final = 96 << 20
"""Bytes: xz at its preset 6 takes 9 MB, at 9 it takes 65."""


@dataclass(frozen=True)
class Step:
    """Some whole blocks of a tensor, changed together: which bytes of both files, in order."""

    entry: TensorPatch
    tensor: TensorInfo
    begin: int
    """Byte of the tensor."""
    n_bytes: int
    streams_at: int
    """Byte of the patch; 0 where nothing changes."""
    old_at: int
    """Byte of the old file; meaningless for a tensor of kind 'whole'."""
    new_at: int


class Payload:
    """Reads an open patch whose index was checked."""

    def __init__(self, file: BinaryIO, index: PatchIndex) -> None:
        self._file, self.index = file, index

    def require_whole(self) -> None:
        """Read all of it once. Raises `BadFileError` if a byte differs from what was written."""
        end = self.index.payload_end
        digest, at = hashlib.sha256(), PREFIX.size
        self._file.seek(at)
        with byte_bar(end - at, "check") as bar:
            while at < end and (block := self._file.read(min(_BLOCK, end - at))):
                digest.update(block)
                at += len(block)
                bar.update(len(block))
        if digest.hexdigest() != self.index.payload_sha256:
            raise damaged(self.index.path, "a byte of the patch is not as it was written")

    def part(self, part: Packed) -> bytes:
        """What a part holds. Raises `BadFileError` for a damaged one, or one of another length."""
        self._file.seek(part.at)
        raw = self._file.read(part.packed)
        stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
        try:
            data = stream.decompress(raw, part.unpacked + 1)
        except (lzma.LZMAError, EOFError) as error:
            raise damaged(
                self.index.path,
                message("a part of it is not xz: {reason}", reason=reason_of(error)),
            ) from error
        if len(data) != part.unpacked or (stream.unused_data and stream.eof):
            raise damaged(self.index.path, "a part of it has another length than its index says")
        return data

    def steps(self, entry: TensorPatch, old: GGUFHeader, new: GGUFHeader) -> Iterator[Step]:
        """The steps of a tensor in order. Raises `BadFileError` if their lengths do not add up."""
        tensor, source = new.tensors[entry.name], old.tensors.get(entry.name)
        old_at = 0 if source is None else old.data_offset + source.offset
        new_at = new.data_offset + tensor.offset
        size = tensor.type.type_size
        step = PIECE // size * size
        n_streams = 1 if entry.how == "whole" else len(layout_of(tensor.type).streams)
        at, end = entry.at, entry.at + entry.packed
        for begin in range(0, tensor.n_bytes, step):
            n_bytes = min(step, tensor.n_bytes - begin)
            streams_at = 0 if entry.how == "same" else at
            yield Step(entry, tensor, begin, n_bytes, streams_at, old_at + begin, new_at + begin)
            for _ in range(n_streams if entry.how != "same" else 0):
                at += _STREAM.size + self._stream_head(at, end)[1]
        if at != end:
            raise damaged(
                self.index.path,
                message("the pieces of tensor '{name}' do not add up", name=entry.name),
            )

    def made(self, step: Step, old: bytes, *, back: bool = False) -> bytes:
        """The new bytes of a step from its old ones (or the old ones from the new, with `back`).

        Raises:
            BadFileError: a stream of it is damaged.
        """
        if step.entry.how == "same":
            return old
        if step.entry.how == "whole":
            (data,) = self._streams(step, [step.n_bytes])
            return data or bytes(step.n_bytes)
        layout = layout_of(step.tensor.type)
        n_blocks = step.n_bytes // layout.block_bytes
        streams = self._streams(step, [n * n_blocks for n in layout.streams])
        return changed(old, layout, streams, back=back) if any(streams) else old

    def _streams(self, step: Step, lengths: list[int]) -> list[bytes]:
        entry = step.entry
        at, end, found = step.streams_at, entry.at + entry.packed, []
        for length in lengths:
            method, packed = self._stream_head(at, end)
            if packed > 2 * length + SPARE:
                raise damaged(
                    self.index.path,
                    message("{size} bytes for {count} differences", size=packed, count=length),
                )
            data = self._file.read(packed)
            at += _STREAM.size + packed
            try:
                found.append(unpacked(method, data, length))
            except ValueError as error:
                raise damaged(
                    self.index.path,
                    message("tensor '{name}': {reason}", name=entry.name, reason=reason_of(error)),
                ) from error
        return found

    def _stream_head(self, at: int, end: int) -> tuple[int, int]:
        """Method and length of the stream at a byte of the patch; what follows is read next."""
        self._file.seek(at)
        raw = self._file.read(_STREAM.size) if at + _STREAM.size <= end else b""
        if len(raw) < _STREAM.size:
            raise damaged(self.index.path, "a tensor's differences end too early")
        method, packed = _STREAM.unpack(raw)
        if method not in METHODS or at + _STREAM.size + packed > end:
            raise damaged(
                self.index.path,
                message("a stream of {size} bytes by method {method}", size=packed, method=method),
            )
        return method, packed
