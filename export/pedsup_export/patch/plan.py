"""What a patch takes from one export to another, decided by headers and manifests alone.

Each of the two files is then read once, and compared with its manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from pedsup.errors import BadFileError, MismatchError, OutputError, UsageError
from pedsup.files.fsio import refuse_existing
from pedsup.gguf_file import GGUFHeader, TensorInfo
from pedsup.gguf_file.validate import validate_model_or_drafter
from pedsup.patch.index import checked_name
from pedsup.trust.bundle import read_signature, signature_path, signed_files
from pedsup.trust.identity import ModelIdentity, identify
from pedsup.trust.manifest import Manifest, manifest_path, read_manifest


@dataclass(frozen=True)
class Side:
    """One of the two files, checked against its manifest as far as its header goes."""

    header: GGUFHeader
    identity: ModelIdentity
    manifest: Manifest


def open_side(path: Path) -> Side:
    """An export whose manifest fits its header.

    Raises:
        BadFileError: it is damaged, or has no manifest.
        MismatchError: the manifest belongs to another file.
    """
    header = validate_model_or_drafter(path)
    identity = identify(header)
    if identity.problem:
        raise MismatchError(identity.problem, where=manifest_path(path))
    return Side(header, identity, read_manifest(manifest_path(path)))


class TensorReading:
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
        recorded = self._side.manifest.tensors.get(name)
        if recorded is None or recorded.sha256 != found:
            raise MismatchError(
                f"tensor '{name}' is not what the manifest says",
                where=self._side.header.path,
                remedy=f"pedsup-export verify {self._side.header.path} says what differs",
            )
        return found


KINDS: Final = ("same", "delta", "whole")


@dataclass(frozen=True)
class PatchRequest:
    """Which file becomes which."""

    old: Path
    new: Path
    out: Path
    force: bool = False
    threads: int = 1


@dataclass(frozen=True)
class PatchPlan:
    """What is compared, decided by headers and manifests alone."""

    request: PatchRequest
    old: Side
    new: Side
    signature: Path | None
    how: dict[str, str]
    """Each tensor of the new file: 'same', 'delta', 'whole'."""

    @property
    def projector(self) -> str | None:
        """Name of the new file's projector, if it is not the old one's; no patch carries it."""
        facts = self.new.manifest.facts.mmproj
        return None if facts is None or self.keeps_projector else facts.name

    @property
    def keeps_projector(self) -> bool:
        """Whether the old file's projector is the new one's too."""
        old, new = (side.manifest.facts.mmproj for side in (self.old, self.new))
        return old is not None and new is not None and old.sha256 == new.sha256

    def bytes_of(self, how: str) -> int:
        """Bytes of the new file's tensors of a kind."""
        tensors = self.new.header.tensors
        return sum(tensors[name].n_bytes for name, kind in self.how.items() if kind == how)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "old": str(self.request.old),
            "new": str(self.request.new),
            "new_bytes": self.new.header.file_size,
            "signed": self.signature is not None,
            "mmproj": self.projector,
            "keeps_mmproj": self.keeps_projector,
            "tensors": {kind: sum(1 for h in self.how.values() if h == kind) for kind in KINDS},
            "tensor_bytes": {kind: self.bytes_of(kind) for kind in KINDS},
        }


def plan_patch(request: PatchRequest) -> PatchPlan:
    """Check everything that headers and manifests can tell.

    Raises:
        OutputError: the output exists.
        UsageError: a file has a name that no patch may give.
        BadFileError: a file is damaged, or has no manifest.
        MismatchError: a manifest is of another file, both files are the same, or they are not
            versions of one model.
        UntrustedError: the signature of the new file does not fit it.
    """
    refuse_existing(request.out, force=request.force)
    for path in (request.old, request.new):
        _require_name(path)
    old, new = open_side(request.old), open_side(request.new)
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


def _how(tensor: TensorInfo, old: Side, new: Side) -> str:
    before = old.header.tensors.get(tensor.name)
    if before is None or (before.type, before.shape) != (tensor.type, tensor.shape):
        return "whole"
    facts = [side.manifest.tensors.get(tensor.name) for side in (old, new)]
    digests = [entry.sha256 if entry is not None else None for entry in facts]
    if None in digests:
        raise BadFileError(
            f"the manifest does not name tensor '{tensor.name}'", where=new.manifest.path
        )
    return "same" if digests[0] == digests[1] else "delta"


def _require_name(path: Path) -> None:
    try:
        checked_name(path.name)
    except ValueError as error:
        raise UsageError(
            "pedsup-run would refuse a patch with this file's name",
            where=path,
            wanted="a plain name that ends with .gguf, of at most 200 bytes",
            remedy="rename the file and what lies beside it",
        ) from error
