"""The new file before any of it is written: its header, what is beside it, who vouches for it."""

from __future__ import annotations

import hashlib
import io
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from pedsup.errors import BadFileError, MismatchError, UntrustedError
from pedsup.gguf_file import GGUFHeader
from pedsup.gguf_file.header import open_regular, parse_header
from pedsup.messages import message
from pedsup.patch.index import PatchIndex, damaged
from pedsup.patch.payload import Payload
from pedsup.texts.safe import label
from pedsup.trust.bundle import read_signature, signature_path, signed_files
from pedsup.trust.manifest import DIGEST_KEY, manifest_path, read_manifest
from pedsup.trust.store import TrustedKey, TrustStore


@dataclass(frozen=True)
class OldModel:
    """The file that is patched, as far as its header tells."""

    path: Path
    header: GGUFHeader
    header_raw: bytes
    """All bytes before the first tensor."""


@dataclass(frozen=True)
class Target:
    """What the patch makes."""

    header: GGUFHeader
    header_raw: bytes
    manifest: bytes
    signature: bytes | None

    @property
    def digest(self) -> str:
        """As `pedsup.trust.identity.header_digest`."""
        return digest_of(self.header_raw, self.header.file_size)


def digest_of(header_raw: bytes, size: int) -> str:
    """`pedsup.trust.identity.header_digest` of a header that is not in a file of its own."""
    return hashlib.sha256(size.to_bytes(8, "little") + header_raw).hexdigest()


def open_old(path: Path, index: PatchIndex) -> OldModel:
    """The file that a patch is for, recognised by its header.

    Raises:
        MissingFileError, BadFileError: it does not exist, or is not a model.
        MismatchError: it is another one.
    """
    with open_regular(path) as file:
        header = parse_header(file, os.fstat(file.fileno()).st_size, path)
        file.seek(0)
        raw = file.read(header.data_offset)
    return _require_old(OldModel(path, header, raw), index)


def old_of_header(path: Path, raw: bytes, index: PatchIndex) -> OldModel:
    """The same by the bytes of its header, which were kept. Raises as `open_old`."""
    header = parse_header(io.BytesIO(raw), index.old.size, path)
    return _require_old(OldModel(path, header, raw), index)


def _require_old(old: OldModel, index: PatchIndex) -> OldModel:
    if digest_of(old.header_raw, old.header.file_size) != index.old.header_sha256:
        raise MismatchError(
            "the patch is for another file",
            where=old.path,
            wanted=message(
                "{name}, {size} bytes, SHA-256 {digest}",
                name=index.old.name,
                size=index.old.size,
                digest=index.old.sha256,
            ),
            remedy="get the patch that is for this version of the model, or the whole new file",
        )
    return old


def make_target(payload: Payload, old: OldModel, model: Path) -> Target:
    """Header, manifest and signature of the new file.

    Args:
        model: where the new file is going to be.

    Raises:
        BadFileError: the patch is damaged or forged: what is in it does not fit together.
    """
    index = payload.index
    header_raw = _header(payload, old.header_raw)
    try:
        header = parse_header(io.BytesIO(header_raw), index.new.size, model)
    except BadFileError as error:
        raise damaged(
            index.path, message("the header that it makes is damaged: {reason}", reason=error.found)
        ) from error
    if header.data_offset != len(header_raw):
        raise damaged(index.path, "the header that it makes has another length")
    _check_tensors(index, old.header, header)
    signature = payload.part(index.signature) if index.signature else None
    return Target(header, header_raw, payload.part(index.manifest), signature)


def _header(payload: Payload, old: bytes) -> bytes:
    index = payload.index
    literal, at, parts = payload.part(index.literal), 0, []
    for begin, length in index.copies:
        if begin < 0:
            parts.append(literal[at : at + length])
            at += length
        elif begin + length > len(old):
            raise damaged(index.path, "its header copies bytes that the old one does not have")
        else:
            parts.append(old[begin : begin + length])
    return b"".join(parts)


def _check_tensors(index: PatchIndex, old: GGUFHeader, new: GGUFHeader) -> None:
    """The index has every tensor of the new file, in its order, and sources of the same kind."""
    if [entry.name for entry in index.tensors] != list(new.tensors):
        raise damaged(index.path, "it does not name the tensors that its header has")
    for entry in index.tensors:
        tensor, source = new.tensors[entry.name], old.tensors.get(entry.name)
        if entry.how == "whole":
            continue
        if source is None or (source.type, source.shape) != (tensor.type, tensor.shape):
            raise damaged(
                index.path,
                message("tensor '{name}' has no source of its type and shape", name=entry.name),
            )


@dataclass(frozen=True)
class TrustQuestion:
    """What `require_trusted` bases its decision on."""

    index: PatchIndex
    old: OldModel
    final: Path
    """The name that the new file is to take."""
    store: TrustStore
    require_signature: bool
    old_signature: Path
    """Where the old file's signature is, if it has one."""


def require_trusted(target: Target, question: TrustQuestion) -> str:
    """Whether somebody vouches for the new file as for the old one, before a byte of it is made.

    Manifest and signature are where `target.header.path` says. The new version of a model that
    came signed is signed by the same key, whatever its name and place.

    Returns:
        SHA-256 that the new file must have.

    Raises:
        BadFileError, UntrustedError: manifest, signature and header do not belong together, or
            the signer is not the one that is expected.
    """
    index, header = question.index, target.header
    manifest = read_manifest(manifest_path(header.path))
    if (header.get(DIGEST_KEY), header.file_size) != (manifest.core_sha256, manifest.file.size):
        raise damaged(index.path, "its manifest belongs to another file")
    digests = {name: entry.sha256 for name, entry in manifest.tensors.items()}
    if digests != {entry.name: entry.sha256 for entry in index.tensors}:
        raise damaged(index.path, "its tensors are not those of its manifest")
    key = None
    if target.signature is not None:
        signature = read_signature(signature_path(header.path))
        key = question.store.by_hint(signature.hint)
        signed_files(signature, manifest, key.key if key else None)
    _require_signer(question, _names(header, question.old.header), key)
    return manifest.file.sha256


def _names(*headers: GGUFHeader) -> list[str]:
    names = [header.get("general.name") for header in headers]
    return [label(name) for name in names if isinstance(name, str)]


def _require_signer(question: TrustQuestion, names: list[str], key: TrustedKey | None) -> None:
    """The key that signed a model of these names, or at these places, before, has signed this."""
    store = question.store
    paths = (question.final, question.old.path)
    known = [model for name in (*names, "") for path in paths for model in store.known(name, path)]
    for earlier in known:
        if key is None or earlier.key != key.key.fingerprint:
            raise UntrustedError(
                "the model came signed before, and this new version is not signed by the same key",
                where=question.index.path,
                wanted=message("a signature by the key {key}", key=earlier.key[:16]),
                remedy=message(
                    "ask the signer; if it is meant: pedsup-run trust unpin {name}",
                    name=shlex.quote(earlier.name),
                ),
            )
    # A file that has not run here yet is known by its signature alone, which needs no check:
    # whoever could forge it could leave it out.
    signed = question.old_signature
    before = store.by_hint(read_signature(signed).hint) if signed.exists() else None
    if before is not None and before != key:
        raise UntrustedError(
            "the old version is signed, and this new version is not signed by the same key",
            where=question.index.path,
            wanted=message("a signature by the key {key}", key=before.key.fingerprint[:16]),
            remedy="ask the signer; if it is meant, get the whole new file",
        )
    if question.require_signature and key is None:
        raise UntrustedError(
            "the new version is not signed by a trusted key",
            where=question.index.path,
            wanted="a signature by a trusted key (require_signature is set)",
            remedy="get a patch to a signed file: pedsup-export sign, then pedsup-export patch",
        )
