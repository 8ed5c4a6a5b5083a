"""Reopen a result and check it: structure, digests, and that the adapter is in it."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args

from pedsup.direct_io import DirectFile, sha256_range
from pedsup.errors import BadFileError, MismatchError, UntrustedError
from pedsup.fsio import sha256_file
from pedsup.gguf_file import GGUFHeader
from pedsup.gguf_file.cut_vocabulary import is_cut
from pedsup.gguf_file.validate import validate_drafter
from pedsup.manifest import DIGEST_KEY, Manifest, manifest_path, read_manifest
from pedsup.progress import byte_bar
from pedsup.trust.bundle import read_signature, signature_path, signed_files
from pedsup.trust.keys import PublicKey
from pedsup_export.floats import RoundTo
from pedsup_export.gguf_out import TensorSlot
from pedsup_export.plan import make_plan
from pedsup_export.proof import AdapterShare, prove_adapter
from pedsup_export.request import ExportRequest, ModelRef
from pedsup_export.vocabulary_cut.proof import check_map, prove_cut
from pedsup_export.vocabulary_cut.request import VocabularyRequest

_COPY = "copy the file and its manifest again from where they were exported"


@dataclass(frozen=True)
class VerifyReport:
    """What was checked. `shares` is None when base and adapter were not given."""

    path: Path
    size: int
    sha256: str
    n_tensors: int
    architecture: str
    manifest: Manifest
    shares: tuple[AdapterShare, ...] | None
    signer: PublicKey | None = None
    """Whose signature was checked."""

    @property
    def recorded_shares(self) -> dict[str, float]:
        """The adapter's share per tensor as measured at export."""
        shares: dict[str, float] = (self.manifest.core.get("adapter") or {}).get("shares", {})
        return shares


def verify(
    path: Path,
    *,
    base: ModelRef | None = None,
    adapter: ModelRef | None = None,
    read_sha256: str | None = None,
    key: PublicKey | None = None,
) -> VerifyReport:
    """Check a model file against its manifest, and the adapter again when its sources are given.

    Args:
        read_sha256: the file's digest if this process has just read it back and compared every
            tensor (`export.read_back`); it is then not read a second time.
        key: who must have signed it. A signature that lies there is compared with the manifest
            in any case, but says nothing without a key.

    Raises:
        BadFileError: the file is no model, or its structure is damaged.
        UntrustedError: the manifest is missing, damaged or of another file, a digest differs, or
            the signature is missing, damaged, by another key, or of other files.
        MismatchError: these are not its base and adapter, or the adapter is not in the file.
    """
    header = validate_drafter(path)  # a drafter can be verified too
    manifest = _manifest(path)
    _check_signature(path, manifest, key)
    _check_identity(header, manifest)
    _check_tensors(header, manifest)
    sha256 = read_sha256 or _check_digests(header, manifest)
    check_map(header, manifest)
    shares = None
    if base is not None and (adapter is not None or is_cut(header)):
        shares = tuple(_prove_again(path, header, manifest, base, adapter))
    return VerifyReport(
        path,
        header.file_size,
        sha256,
        len(header.tensors),
        header.architecture,
        manifest,
        shares,
        key,
    )


def _manifest(path: Path) -> Manifest:
    try:
        return read_manifest(manifest_path(path))
    except BadFileError as error:
        # Of the evidence, not of the model: the same code as for evidence of something else.
        raise UntrustedError(
            error.found, where=error.where, wanted=error.wanted, remedy=error.remedy
        ) from error


def _check_signature(path: Path, manifest: Manifest, key: PublicKey | None) -> None:
    beside = signature_path(path)
    if beside.exists():
        signed_files(read_signature(beside), manifest, key)
    elif key is not None:
        raise UntrustedError(
            "the model is not signed",
            where=beside,
            wanted=f"a signature by the key {key.fingerprint[:16]}",
            remedy=f"pedsup-export sign {path} --key KEY.key",
        )


def _differs(what: str, found: object, wanted: object, path: Path) -> UntrustedError:
    return UntrustedError(
        f"{what} differs from the manifest: {found}",
        where=path,
        wanted=str(wanted),
        remedy=_COPY,
    )


def _check_identity(header: GGUFHeader, manifest: Manifest) -> None:
    recorded = header.metadata.get(DIGEST_KEY)
    if recorded != manifest.core_sha256:
        raise UntrustedError(
            "this manifest belongs to another file",
            where=manifest.path,
            wanted=f"the manifest with the digest {recorded}",
            remedy=_COPY,
        )
    if header.file_size != manifest.file["size"]:
        raise _differs("the size", header.file_size, manifest.file["size"], header.path)
    if header.tensors.keys() != manifest.tensors.keys():
        odd = sorted(header.tensors.keys() ^ manifest.tensors.keys())
        raise _differs("the list of tensors", odd[:5], "the same names", header.path)
    template = header.metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        digest = hashlib.sha256(template.encode()).hexdigest()
        wanted = manifest.core.get("chat_template_sha256")
        if digest != wanted:
            raise _differs("the chat template", digest, wanted, header.path)


def _check_tensors(header: GGUFHeader, manifest: Manifest) -> None:
    for tensor in header.tensors.values():
        wanted = manifest.tensors[tensor.name]
        if (tensor.type.name, list(tensor.shape)) != (wanted.get("type"), wanted.get("shape")):
            found = f"{tensor.type.name} {list(tensor.shape)}"
            raise _differs(f"tensor '{tensor.name}'", found, wanted, header.path)


def tensor_digests(header: GGUFHeader) -> dict[str, str]:
    """SHA-256 of every tensor's bytes as they are on the disk."""
    total = sum(t.n_bytes for t in header.tensors.values())
    file, found = DirectFile(header.path), {}
    with byte_bar(total, "verify") as bar:
        for tensor in header.tensors.values():
            found[tensor.name] = sha256_range(
                file, header.data_offset + tensor.offset, tensor.n_bytes
            )
            bar.update(tensor.n_bytes)
    return found


def _check_digests(header: GGUFHeader, manifest: Manifest) -> str:
    """Compare every tensor and the whole file with the manifest; the file's SHA-256."""
    with ThreadPoolExecutor(1) as background:
        whole = background.submit(sha256_file, header.path)
        for name, digest in tensor_digests(header).items():
            wanted = manifest.tensors[name]["sha256"]
            if digest != wanted:
                raise _differs(f"tensor '{name}'", digest, wanted, header.path)
        sha256 = whole.result()
    if sha256 != manifest.file["sha256"]:
        raise _differs("the whole file", sha256, manifest.file["sha256"], header.path)
    return sha256


def _prove_again(
    path: Path, header: GGUFHeader, manifest: Manifest, base: ModelRef, adapter: ModelRef | None
) -> list[AdapterShare]:
    """Merge the sampled rows again and compare them with the file's own tensors."""
    request = ExportRequest(
        base=base,
        adapter=adapter,
        out=path,
        merge_dtype=_merge_dtype(manifest),
        allow_unused=True,
        vocabulary=VocabularyRequest(file=path) if is_cut(header) else None,
    )
    plan, inputs = make_plan(request)
    _check_sources(manifest, "base", inputs.checkpoint.digest())
    if inputs.adapter is not None:
        _check_sources(manifest, "adapter", inputs.adapter.digest())
    if [t.slot.name for t in plan.tensors] != list(header.tensors):
        raise _differs("the list of tensors", len(header.tensors), len(plan.tensors), path)
    if plan.cut is not None:
        prove_cut(plan.cut, header, plan.cut.document, plan.cut.texts.values())
    # Types and offsets are the file's own: an override or an imatrix may have chosen others.
    tensors = tuple(
        replace(t, slot=TensorSlot(i.name, i.shape, i.type, i.offset, i.n_bytes))
        for t, i in zip(plan.tensors, header.tensors.values(), strict=True)
    )
    return prove_adapter(replace(plan, tensors=tensors), inputs, path, header.data_offset)


def _merge_dtype(manifest: Manifest) -> RoundTo:
    found = (manifest.core.get("recipe") or {}).get("merge_dtype")
    for known in get_args(RoundTo):
        if found == known:
            return cast(RoundTo, known)
    raise _differs("the recipe's merge_dtype", repr(found)[:60], get_args(RoundTo), manifest.path)


def _check_sources(manifest: Manifest, what: str, found: dict[str, str]) -> None:
    wanted = (manifest.core.get(what) or {}).get("files")
    if found != wanted:
        raise MismatchError(
            f"this {what} is not the one that was exported",
            wanted=json.dumps(wanted),
            remedy=f"give the {what} that the manifest names",
        )
