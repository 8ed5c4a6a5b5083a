"""Make a patch: read two exports once, tensor by tensor, and write what changed."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import pedsup
from pedsup.errors import BadFileError, MismatchError, OutputError
from pedsup.files.fsio import (
    lock_or_refuse,
    open_partial,
    partial_path,
    publish,
    refuse_existing,
)
from pedsup.gguf_file import GGUFHeader, TensorInfo
from pedsup.gguf_file.validate import validate_drafter
from pedsup.patch.index import MAGIC, PIECE, PREFIX
from pedsup.patch.layouts import layout_of
from pedsup.progress import byte_bar
from pedsup.trust.bundle import read_signature, signature_path, signed_files
from pedsup.trust.identity import ModelIdentity, identify
from pedsup.trust.manifest import Manifest, manifest_path, read_manifest
from pedsup_export.patch.differences import differences
from pedsup_export.patch.header_copy import copies
from pedsup_export.patch.pack import deflated, packed_piece

AHEAD: Final = 8
"""Pieces of a tensor that are worked on at a time."""


@dataclass(frozen=True)
class PatchRequest:
    """Which file becomes which."""

    old: Path
    new: Path
    out: Path
    force: bool = False
    threads: int = 1


@dataclass(frozen=True)
class Side:
    """One of the two files, checked against its manifest as far as its header goes."""

    header: GGUFHeader
    identity: ModelIdentity
    manifest: Manifest


@dataclass(frozen=True)
class PatchPlan:
    """What is compared, decided by headers and manifests alone."""

    request: PatchRequest
    old: Side
    new: Side
    signature: Path | None
    how: dict[str, str]
    """Each tensor of the new file: 'same', 'delta', 'whole'."""

    def bytes_of(self, how: str) -> int:
        """Bytes of the new file's tensors of a kind."""
        tensors = self.new.header.tensors
        return sum(tensors[name].n_bytes for name, kind in self.how.items() if kind == how)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "old": str(self.request.old),
            "new": str(self.request.new),
            "new_bytes": self.new.header.file_size,
            "signed": self.signature is not None,
            "tensors": {kind: sum(1 for h in self.how.values() if h == kind) for kind in KINDS},
            "tensor_bytes": {kind: self.bytes_of(kind) for kind in KINDS},
        }


KINDS: Final = ("same", "delta", "whole")


@dataclass
class Tally:
    """Bytes of changed tensors and of what describes their change, by type."""

    changed: dict[str, int] = field(default_factory=dict)
    packed: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, changed: int, packed: int) -> None:
        """Count a tensor."""
        self.changed[kind] = self.changed.get(kind, 0) + changed
        self.packed[kind] = self.packed.get(kind, 0) + packed


@dataclass(frozen=True)
class PatchMade:
    """A finished patch."""

    path: Path
    size: int
    sha256: str
    new_size: int
    tally: Tally

    @property
    def share(self) -> float:
        """Of the new file's size."""
        return self.size / self.new_size

    def as_dict(self) -> dict[str, Any]:
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


def plan_patch(request: PatchRequest) -> PatchPlan:
    """Check everything that headers and manifests can tell.

    Raises:
        OutputError: the output exists.
        BadFileError: a file is damaged, or has no manifest.
        MismatchError: a manifest is of another file, both files are the same, or they are not
            versions of one model.
        UntrustedError: the signature of the new file does not fit it.
    """
    refuse_existing(request.out, force=request.force)
    old, new = _side(request.old), _side(request.new)
    if old.identity.digest == new.identity.digest:
        raise MismatchError(
            "both files are the same", where=request.new, remedy="no patch is needed"
        )
    if old.header.architecture != new.header.architecture:
        raise MismatchError(
            f"a file of {new.header.architecture} cannot be made from one of "
            f"{old.header.architecture}",
            where=request.old,
            wanted="two versions of one model",
        )
    beside = signature_path(request.new)
    signature = beside if beside.exists() else None
    if signature is not None:
        signed_files(read_signature(signature), new.manifest, None)
    how = {tensor.name: _how(tensor, old, new) for tensor in new.header.tensors.values()}
    return PatchPlan(request, old, new, signature, how)


def _side(path: Path) -> Side:
    header = validate_drafter(path)
    identity = identify(header)
    if identity.problem:
        raise MismatchError(identity.problem, where=manifest_path(path))
    return Side(header, identity, read_manifest(manifest_path(path)))


def _how(tensor: TensorInfo, old: Side, new: Side) -> str:
    before = old.header.tensors.get(tensor.name)
    if before is None or (before.type, before.shape) != (tensor.type, tensor.shape):
        return "whole"
    digests = [side.manifest.tensors.get(tensor.name, {}).get("sha256") for side in (old, new)]
    if None in digests:
        raise BadFileError(
            f"the manifest does not name tensor '{tensor.name}'", where=new.manifest.path
        )
    return "same" if digests[0] == digests[1] else "delta"


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
        writer = _Writer(file)
        try:
            document = _payload(plan, writer, tally)
            writer.finish(document)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        publish(partial, out)
    size, sha256 = writer.whole()
    return PatchMade(out, size, sha256, plan.new.header.file_size, tally)


class _Writer:
    """Writes the payload, then the index, then the prefix in front."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._payload = hashlib.sha256()
        self._after = hashlib.sha256()
        self._size = file.write(bytes(PREFIX.size))
        self._prefix = b""
        self._index = b""

    def write(self, data: bytes) -> int:
        """Append to the payload."""
        self._payload.update(data)
        self._size += self._file.write(data)
        return len(data)

    def xz(self, data: bytes) -> list[int]:
        """Append a part that is unpacked as one; its packed and unpacked length."""
        return [self.write(lzma.compress(data, preset=6)), len(data)]

    def finish(self, document: dict[str, Any]) -> None:
        """Append the index and write the prefix."""
        document["payload_sha256"] = self._payload.hexdigest()
        raw = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
        self._index = deflated(raw, zlib.Z_DEFAULT_STRATEGY)
        self._size += self._file.write(self._index)
        digest = hashlib.sha256(self._index).digest()
        self._prefix = PREFIX.pack(MAGIC, len(self._index), len(raw), self._size, digest)
        self._file.seek(0)
        self._file.write(self._prefix)
        self._file.flush()

    def whole(self) -> tuple[int, str]:
        """Size and the index's SHA-256, which identifies the patch."""
        return self._size, hashlib.sha256(self._index).hexdigest()


def _payload(plan: PatchPlan, writer: _Writer, tally: Tally) -> dict[str, Any]:
    """Write all parts; the index that describes them."""
    old, new = plan.old, plan.new
    with old.header.path.open("rb") as before, new.header.path.open("rb") as after:
        found, literal = copies(
            before.read(old.header.data_offset), after.read(new.header.data_offset)
        )
        document: dict[str, Any] = {
            "schema": MAGIC.decode().strip(),
            "made_by": f"pedsup {pedsup.__version__}",
            "old": {
                "name": old.header.path.name,
                "size": old.header.file_size,
                "header_sha256": old.identity.digest,
                "sha256": old.manifest.file["sha256"],
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
    writer: _Writer
    threads: ThreadPoolExecutor
    advance: Callable[[int], object]

    def write(
        self, tensor: TensorInfo, before: BinaryIO, after: BinaryIO, tally: Tally
    ) -> list[Any]:
        """The tensor's entry of the index."""
        plan, how = self.plan, self.plan.how[tensor.name]
        source = None if how == "whole" else plan.old.header.tensors[tensor.name]
        old = None if source is None else _Read(before, plan.old, source)
        new = _Read(after, plan.new, tensor)
        step = PIECE // tensor.type.type_size * tensor.type.type_size
        pairs = zip(old.pieces(step), new.pieces(step), strict=True) if old else (
            (b"", piece) for piece in new.pieces(step)
        )  # fmt: skip
        packed = 0
        for data in self._ahead(how, tensor, pairs):
            packed += self.writer.write(data)
        digests = [new.require_digest(), old.require_digest() if old else None]
        if how != "same":
            tally.add(tensor.type.name, tensor.n_bytes, packed)
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


class _Read:
    """Reads a tensor once and compares it with the manifest."""

    def __init__(self, file: BinaryIO, side: Side, tensor: TensorInfo) -> None:
        self._file, self._side, self._tensor = file, side, tensor
        self._digest = hashlib.sha256()

    def pieces(self, step: int) -> Iterator[bytes]:
        """The bytes, `step` at a time."""
        self._file.seek(self._side.header.data_offset + self._tensor.offset)
        left = self._tensor.n_bytes
        while left:
            piece = self._file.read(min(step, left))
            if not piece:
                raise OutputError("the file was cut while it was read", where=self._file.name)
            self._digest.update(piece)
            left -= len(piece)
            yield piece

    def require_digest(self) -> str:
        """The SHA-256 of what was read.

        Raises:
            MismatchError: the manifest has another one.
        """
        found, name = self._digest.hexdigest(), self._tensor.name
        if self._side.manifest.tensors.get(name, {}).get("sha256") != found:
            raise MismatchError(
                f"tensor '{name}' is not what the manifest says",
                where=self._side.header.path,
                remedy=f"pedsup-export verify {self._side.header.path} says what differs",
            )
        return found
