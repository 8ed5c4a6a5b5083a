"""One of the two files that a patch is made of, read once and compared with its manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pedsup.errors import MismatchError, OutputError
from pedsup.gguf_file import GGUFHeader, TensorInfo
from pedsup.gguf_file.validate import validate_model_or_drafter
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
