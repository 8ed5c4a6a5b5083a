"""Make a patch: read two exports once, tensor by tensor, and write what changed."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import pedsup
from pedsup.files.fsio import lock_or_refuse, open_partial, partial_path, publish
from pedsup.gguf_file import TensorInfo
from pedsup.patch.index import MAGIC, MAX_COPIES, PIECE, PREFIX
from pedsup.patch.layouts import layout_of
from pedsup.progress import byte_bar
from pedsup_export.patch.pack import copies, deflated, differences, packed_piece
from pedsup_export.patch.plan import PatchPlan, TensorReading


class PatchWriter:
    """Writes the payload, then the index, then the prefix in front."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._payload = hashlib.sha256()
        self._size = file.write(bytes(PREFIX.size))
        self._index = b""

    def write(self, data: bytes) -> int:
        """Append to the payload."""
        self._payload.update(data)
        self._size += self._file.write(data)
        return len(data)

    def xz(self, data: bytes) -> list[int]:
        """Append a part that is unpacked as one; its packed and unpacked length."""
        return [self.write(lzma.compress(data, preset=6)), len(data)]

    def finish(self, document: dict[str, object]) -> None:
        """Append the index and write the prefix."""
        document["payload_sha256"] = self._payload.hexdigest()
        raw = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
        self._index = deflated(raw, zlib.Z_DEFAULT_STRATEGY)
        self._size += self._file.write(self._index)
        digest = hashlib.sha256(self._index).digest()
        self._file.seek(0)
        self._file.write(PREFIX.pack(MAGIC, len(self._index), len(raw), self._size, digest))
        self._file.flush()

    def whole(self) -> tuple[int, str]:
        """Size and the index's SHA-256, which identifies the patch."""
        return self._size, hashlib.sha256(self._index).hexdigest()


AHEAD: Final = 8
"""Pieces of a tensor that are worked on at a time."""


@dataclass
class Tally:
    """Bytes of changed tensors and of what describes their change, by type."""

    changed: Counter[str] = field(default_factory=Counter)
    packed: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class PatchMade:
    """A finished patch."""

    path: Path
    size: int
    sha256: str
    new_size: int
    tally: Tally
    signed: bool
    """Whether the new file's signature is in the patch."""

    @property
    def share(self) -> float:
        """Of the new file's size."""
        return self.size / self.new_size

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "path": str(self.path),
            "size": self.size,
            "sha256": self.sha256,
            "share": round(self.share, 5),
            "types": {
                kind: {"changed_bytes": changed, "patch_bytes": self.tally.packed[kind]}
                for kind, changed in self.tally.changed.items()
            },
        }


def make_patch(plan: PatchPlan) -> PatchMade:
    """Write the patch; it takes its name when it is whole.

    Raises:
        MismatchError: a file is not what its manifest says.
        OutputError: another process writes the same output.
    """
    out = plan.request.out
    partial = partial_path(out)
    tally = Tally()
    with os.fdopen(open_partial(partial, os.O_RDWR), "r+b") as file:
        lock_or_refuse(file, out)
        file.truncate(0)
        writer = PatchWriter(file)
        try:
            document = _payload(plan, writer, tally)
            writer.finish(document)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        publish(partial, out)
    size, sha256 = writer.whole()
    signed = plan.signature is not None
    return PatchMade(out, size, sha256, plan.new.header.file_size, tally, signed)


def _payload(plan: PatchPlan, writer: PatchWriter, tally: Tally) -> dict[str, object]:
    """Write all parts; the index that describes them."""
    old, new = plan.old, plan.new
    with old.header.path.open("rb") as before, new.header.path.open("rb") as after:
        header = after.read(new.header.data_offset)
        found, literal = copies(before.read(old.header.data_offset), header)
        if len(found) > MAX_COPIES:
            found, literal = [(-1, len(header))], header
        document: dict[str, object] = {
            "schema": MAGIC.decode().strip(),
            "made_by": f"pedsup {pedsup.__version__}",
            "old": {
                "name": old.header.path.name,
                "size": old.header.file_size,
                "header_sha256": old.identity.digest,
                "sha256": old.manifest.file.sha256,
            },
            "new": {
                "name": new.header.path.name,
                "size": new.header.file_size,
                "header_sha256": new.identity.digest,
            },
            "header": found,
            "literal": writer.xz(literal),
            "manifest": writer.xz(new.manifest.path.read_bytes()),
            "signature": writer.xz(plan.signature.read_bytes()) if plan.signature else None,
        }
        total = sum(tensor.n_bytes for tensor in new.header.tensors.values())
        with (
            byte_bar(total, "patch") as bar,
            ThreadPoolExecutor(plan.request.threads) as threads,
        ):
            work = _Tensors(plan, writer, threads, bar.update)
            document["tensors"] = [
                work.write(tensor, before, after, tally) for tensor in new.header.tensors.values()
            ]
    return document


@dataclass(frozen=True)
class _Tensors:
    """Compares tensors and appends what changed."""

    plan: PatchPlan
    writer: PatchWriter
    threads: ThreadPoolExecutor
    advance: Callable[[int], object]

    def write(
        self, tensor: TensorInfo, before: BinaryIO, after: BinaryIO, tally: Tally
    ) -> list[Any]:
        """The tensor's entry of the index."""
        plan, how = self.plan, self.plan.how[tensor.name]
        source = None if how == "whole" else plan.old.header.tensors[tensor.name]
        old = None if source is None else TensorReading(before, plan.old, source)
        new = TensorReading(after, plan.new, tensor)
        step = PIECE // tensor.type.type_size * tensor.type.type_size
        pairs = zip(old.pieces(step), new.pieces(step), strict=True) if old else (
            (b"", piece) for piece in new.pieces(step)
        )  # fmt: skip
        packed = 0
        for data in self._ahead(how, tensor, pairs):
            packed += self.writer.write(data)
        digests = [new.require_digest(), old.require_digest() if old else None]
        if how != "same":
            tally.changed[tensor.type.name] += tensor.n_bytes
            tally.packed[tensor.type.name] += packed
        return [tensor.name, how, *digests, packed]

    def _ahead(
        self, how: str, tensor: TensorInfo, pairs: Iterator[tuple[bytes, bytes]]
    ) -> Iterator[bytes]:
        """The packed pieces, in order; some are worked on while others are written."""
        layout, waiting = layout_of(tensor.type), []

        def pack(old: bytes, new: bytes) -> bytes:
            if how == "delta":
                return packed_piece(differences(old, new, layout))
            return packed_piece([new])

        for old, new in pairs:
            self.advance(len(new))
            if how != "same":
                waiting.append(self.threads.submit(pack, old, new))
            if len(waiting) >= AHEAD:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()
