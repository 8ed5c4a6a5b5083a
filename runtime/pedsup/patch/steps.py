"""The pieces of all tensors with their places in both files: what a patch does, in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pedsup.gguf_file import GGUFHeader, TensorInfo
from pedsup.patch.index import TensorPatch
from pedsup.patch.payload import Payload, Piece


@dataclass(frozen=True)
class Step:
    """One piece: which bytes of the old file make which of the new one."""

    entry: TensorPatch
    tensor: TensorInfo
    piece: Piece
    old_at: int
    """Byte of the old file; meaningless for a tensor of kind 'whole'."""
    new_at: int

    @property
    def n_bytes(self) -> int:
        return self.piece.n_bytes

    def made(self, payload: Payload, source: bytes, *, back: bool = False) -> bytes:
        """The new bytes from the old ones, or with `back` the old ones from the new."""
        return payload.made(self.entry, self.tensor, self.piece, source, back=back)


def steps_of(
    entry: TensorPatch, payload: Payload, old: GGUFHeader, new: GGUFHeader
) -> Iterator[Step]:
    tensor, source = new.tensors[entry.name], old.tensors.get(entry.name)
    old_at = 0 if source is None else old.data_offset + source.offset
    new_at = new.data_offset + tensor.offset
    for piece in payload.pieces(entry, tensor):
        yield Step(entry, tensor, piece, old_at + piece.begin, new_at + piece.begin)
