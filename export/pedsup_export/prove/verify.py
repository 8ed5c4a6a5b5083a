"""Reopen a result and check it: structure, digests, and that the adapter is in it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from pedsup.errors import BadFileError, UntrustedError
from pedsup.gguf_file import GGUFHeader
from pedsup.gguf_file.cut_vocabulary import is_cut
from pedsup.gguf_file.lora import is_adapter
from pedsup.gguf_file.validate import validate_any_gguf
from pedsup.trust.bundle import read_signature, signature_path, signed_files
from pedsup.trust.keys import PublicKey
from pedsup.trust.manifest import DIGEST_KEY, Manifest, manifest_path, read_manifest
from pedsup_export.plan.request import ExportRequest
from pedsup_export.prove.adapter_file import check_adapter_file
from pedsup_export.prove.finished_file import COPY, Wanted, differs
from pedsup_export.prove.projector import (
    ProjectorReport,
    check_projector,
    projector_type,
    refuse_projector,
)
from pedsup_export.prove.proof import AdapterShare, Proof
from pedsup_export.prove.reading import check_table, read_and_compare
from pedsup_export.prove.remake import PLAIN, MadeWith, merge_dtype_of, proof_of, whose_tokenizer
from pedsup_export.source.hub import ModelRef
from pedsup_export.vocabulary_cut.proof import check_map
from pedsup_export.vocabulary_cut.request import VocabularyRequest


@dataclass(frozen=True)
class VerifyReport:
    """What was checked. `shares` is None when base and adapter were not given."""

    path: Path
    size: int
    sha256: str
    n_tensors: int
    architecture: str
    manifest: Manifest
    shares: tuple[AdapterShare, ...] | None = None
    signer: PublicKey | None = None
    """Whose signature was checked."""
    remade: bool = False
    """Whether sampled rows were made again from base and adapter and had the same bytes."""

    projector: ProjectorReport | None = None
    """Of the projector that the manifest names, or that lies there without being named."""

    @property
    def recorded_shares(self) -> dict[str, float]:
        """The adapter's share per tensor as measured at export."""
        adapter = self.manifest.facts.adapter
        return dict(adapter.shares) if adapter is not None else {}


def verify(
    path: Path,
    *,
    base: ModelRef | None = None,
    adapter: ModelRef | None = None,
    made_with: MadeWith = PLAIN,
    read_sha256: str | None = None,
    key: PublicKey | None = None,
) -> VerifyReport:
    """Check a model file against its manifest, and the adapter again when its sources are given.

    Args:
        base: its folder; of an adapter file the base's GGUF.
        made_with: what it was made with beside base and adapter, if anything.
        read_sha256: the file's digest if this process has just read it back and compared every
            tensor (`export.read_back`); it is then not read a second time.
        key: who must have signed it. A signature that lies there is compared with the manifest
            in any case, but says nothing without a key.

    Raises:
        BadFileError: the file is not a model, or its structure is damaged.
        UntrustedError: the manifest is missing, damaged or of another file, a digest differs, or
            the signature is missing, damaged, by another key, or of other files.
        MismatchError: these are not its base and adapter, or the adapter is not in the file.
    """
    refuse_projector(path)
    header = validate_any_gguf(path)  # a drafter can be verified too, and an adapter
    manifest = _manifest(path)
    _check_signature(path, manifest, key)
    _check_identity(header, manifest)
    n_tensors, sha256 = len(header.tensors), read_sha256 or ""
    report = VerifyReport(
        path, header.file_size, sha256, n_tensors, header.architecture, manifest, signer=key
    )
    if is_adapter(header):
        sha256 = check_adapter_file(header, manifest, base.folder if base else None, adapter)
        return replace(report, sha256=sha256, remade=adapter is not None)
    check_map(header, manifest)
    return _read(report, header, _proof(header, manifest, base, adapter, made_with))


def _read(report: VerifyReport, header: GGUFHeader, proof: Proof | None) -> VerifyReport:
    """Read the model, unless this process has just done so, and its projector."""
    manifest, sha256, shares = report.manifest, report.sha256, None
    if not sha256 or proof is not None:
        wanted = Wanted(manifest.tensors, manifest.file.sha256)
        sha256, shares = read_and_compare(header, wanted, proof)
    projector = check_projector(report.path, manifest, proof)
    if shares is not None and projector is not None and projector.shares is not None:
        shares = (*shares, *projector.shares)
    remade = proof is not None and proof.exact
    return replace(report, sha256=sha256, shares=shares, remade=remade, projector=projector)


def _proof(
    header: GGUFHeader,
    manifest: Manifest,
    base: ModelRef | None,
    adapter: ModelRef | None,
    made_with: MadeWith,
) -> Proof | None:
    """The proof of the export that made a file, as far as its manifest and what is given tell."""
    if base is None or (adapter is None and not is_cut(header)):
        return None
    request = ExportRequest(
        base=base,
        adapter=adapter,
        out=header.path,
        merge_dtype=merge_dtype_of(manifest),
        imatrix=made_with.imatrix,
        calibrated=made_with.calibrated,
        allow_unused=True,
        allow_no_effect=True,
        tokenizer=whose_tokenizer(manifest),
        vocabulary=VocabularyRequest(file=header.path) if is_cut(header) else None,
        mmproj=projector_type(manifest),
    )
    return proof_of(header, manifest, request)


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


def _check_identity(header: GGUFHeader, manifest: Manifest) -> None:
    recorded = header.metadata.get(DIGEST_KEY)
    if recorded != manifest.core_sha256:
        raise UntrustedError(
            "this manifest belongs to another file",
            where=manifest.path,
            wanted=f"the manifest with the digest {recorded}"
            if recorded
            else "a model that was exported with a manifest: this one names none",
            remedy=COPY,
        )
    check_table(header, manifest.file.size, manifest.tensors)
    template = header.metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        digest = hashlib.sha256(template.encode()).hexdigest()
        wanted = manifest.facts.chat_template_sha256
        if digest != wanted:
            raise differs("the chat template", digest, wanted, header.path)
