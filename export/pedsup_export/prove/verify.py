"""Reopen a result and check it: structure, digests, and that the adapter is in it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np

from pedsup.errors import BadFileError, MismatchError, UntrustedError
from pedsup.files.direct_io import DirectFile
from pedsup.gguf_file import GGUFHeader
from pedsup.gguf_file.cut_vocabulary import is_cut
from pedsup.gguf_file.lora import is_adapter
from pedsup.gguf_file.validate import validate_any
from pedsup.optional import require
from pedsup.trust.bundle import read_signature, signature_path, signed_files
from pedsup.trust.keys import PublicKey
from pedsup.trust.manifest import DIGEST_KEY, Manifest, PartFacts, manifest_path, read_manifest
from pedsup_export.calibration import store
from pedsup_export.gguf.header import TensorSlot
from pedsup_export.plan.planner import TensorPlan, make_plan
from pedsup_export.plan.request import ExportRequest
from pedsup_export.prove.adapter_file import check_adapter_file
from pedsup_export.prove.finished_file import read_finished
from pedsup_export.prove.metadata import check_metadata
from pedsup_export.prove.proof import AdapterShare, Proof, ReadRows, Sample, require_present
from pedsup_export.rounding.calibrated import METHOD, Calibrated
from pedsup_export.rounding.matrix import Effort
from pedsup_export.source.floats import RoundTo
from pedsup_export.source.hub import ModelRef
from pedsup_export.vocabulary_cut.proof import check_map, prove_cut
from pedsup_export.vocabulary_cut.request import VocabularyRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

_COPY = "copy the file and its manifest again from where they were exported"


@dataclass(frozen=True)
class MadeWith:
    """What decided a file's bytes besides base and adapter; without it sampled rows cannot be made
    again, and only the adapter's share is measured.
    """

    imatrix: Path | None = None
    """The importance matrix."""
    calibrated: Path | None = None
    """The statistics that it was rounded with."""


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
    remade: bool = False
    """Whether sampled rows were made again from base and adapter and had the same bytes."""

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
    made_with: MadeWith = MadeWith(),
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
        BadFileError: the file is no model, or its structure is damaged.
        UntrustedError: the manifest is missing, damaged or of another file, a digest differs, or
            the signature is missing, damaged, by another key, or of other files.
        MismatchError: these are not its base and adapter, or the adapter is not in the file.
    """
    header = validate_any(path)  # a drafter can be verified too, and an adapter
    manifest = _manifest(path)
    _check_signature(path, manifest, key)
    _check_identity(header, manifest)
    _check_tensors(header, manifest)
    if is_adapter(header):
        sha256 = check_adapter_file(header, manifest, base.folder if base else None, adapter)
        return VerifyReport(
            path, header.file_size, sha256, len(header.tensors), header.architecture, manifest,
            None, key, remade=adapter is not None,
        )  # fmt: skip
    check_map(header, manifest)
    proof = None
    if base is not None and (adapter is not None or is_cut(header)):
        proof = _proof(header, manifest, ExportRequest(
            base=base, adapter=adapter, out=path, merge_dtype=_merge_dtype(manifest),
            imatrix=made_with.imatrix, calibrated=made_with.calibrated,
            allow_unused=True, allow_no_effect=True,
            tokenizer=_whose_tokenizer(manifest),
            vocabulary=VocabularyRequest(file=path) if is_cut(header) else None,
        ))  # fmt: skip
    shares = None
    if read_sha256 is None or proof is not None:
        sha256, shares = _read(header, manifest, proof)
    else:
        sha256 = read_sha256
    return VerifyReport(
        path,
        header.file_size,
        sha256,
        len(header.tensors),
        header.architecture,
        manifest,
        shares,
        key,
        remade=proof is not None and proof.exact,
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
            wanted=f"the manifest with the digest {recorded}"
            if recorded
            else "a model that was exported with a manifest: this one names none",
            remedy=_COPY,
        )
    if header.file_size != manifest.file.size:
        raise _differs("the size", header.file_size, manifest.file.size, header.path)
    if header.tensors.keys() != manifest.tensors.keys():
        odd = sorted(header.tensors.keys() ^ manifest.tensors.keys())
        raise _differs("the list of tensors", odd[:5], "the same names", header.path)
    template = header.metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        digest = hashlib.sha256(template.encode()).hexdigest()
        wanted = manifest.facts.chat_template_sha256
        if digest != wanted:
            raise _differs("the chat template", digest, wanted, header.path)


def _check_tensors(header: GGUFHeader, manifest: Manifest) -> None:
    for tensor in header.tensors.values():
        wanted = manifest.tensors[tensor.name]
        if (tensor.type.name, list(tensor.shape)) != (wanted.type, wanted.shape):
            found = f"{tensor.type.name} {list(tensor.shape)}"
            raise _differs(f"tensor '{tensor.name}'", found, wanted, header.path)


def _read(
    header: GGUFHeader, manifest: Manifest, proof: Proof | None
) -> tuple[str, tuple[AdapterShare, ...] | None]:
    """Read the file once: compare all digests with the manifest, and its rows with the inputs."""
    file = DirectFile(header.path)
    # Each thread of the proof multiplies on its own: a BLAS with threads of its own would spin.
    blas = require("threadpoolctl", extra="export").threadpool_limits(1, user_api="blas")
    with blas, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        samples = _Samples(proof, pool)
        found = read_finished(file, header, samples.take)
        for name, digest in found.tensors.items():
            wanted = manifest.tensors[name].sha256
            if digest != wanted:
                raise _differs(f"tensor '{name}'", digest, wanted, header.path)
        if found.whole != manifest.file.sha256:
            raise _differs("the whole file", found.whole, manifest.file.sha256, header.path)
        if proof is None:
            return found.whole, None
        shares = samples.shares()
    require_present(shares, header.path)
    return found.whole, shares


class _Samples:
    """The sampled rows of each tensor, proved in the background as soon as they were read."""

    def __init__(self, proof: Proof | None, pool: ThreadPoolExecutor) -> None:
        self._proof, self._pool = proof, pool
        tensors = proof.plan.tensors if proof is not None else ()
        self._tensors = {t.slot.name: t for t in tensors}
        self._sample: Sample | None = None
        self._futures: dict[str, Future[AdapterShare | None]] = {}

    def take(self, name: str, at: int, octets: memoryview) -> None:
        """See `read_finished`."""
        tensor = self._tensors.get(name)
        if self._proof is None or tensor is None:
            return
        if self._sample is None:
            self._sample = Sample(tensor, self._proof.inputs)
        self._sample.take(at, octets)
        if at + len(octets) == tensor.slot.n_bytes:
            self._futures[name] = self._pool.submit(self._proof.prove, self._sample)
            self._sample = None

    def shares(self) -> tuple[AdapterShare, ...]:
        """The adapter's shares in the order of the file.

        Raises:
            MismatchError: a tensor is not what the inputs give.
        """
        found = [self._futures[name].result() for name in self._tensors]
        return tuple(share for share in found if share is not None)


def _proof(header: GGUFHeader, manifest: Manifest, request: ExportRequest) -> Proof:
    """What is needed to make sampled rows again, from the inputs that the manifest names."""
    plan, inputs = make_plan(request)
    _check_sources(_files(manifest.facts.base), "base", inputs.checkpoint.digest())
    if request.adapter is not None:
        _check_sources(_files(manifest.facts.adapter), "adapter", plan.sources["adapter"])
    elif manifest.facts.adapter is not None:
        raise MismatchError(
            "the file was exported with an adapter, and none was given",
            where=header.path,
            wanted="base and adapter",
            remedy="give --adapter too",
        )
    weighted = _files(manifest.recipe.get("imatrix"))
    if request.imatrix is not None:
        if weighted is None:
            raise MismatchError(
                "the file was exported without an importance matrix, and one was given",
                where=header.path,
                remedy="leave --imatrix out",
            )
        _check_sources(weighted, "importance matrix", plan.sources["imatrix"])
    if [t.slot.name for t in plan.tensors] != list(header.tensors):
        raise _differs("the list of tensors", len(header.tensors), len(plan.tensors), header.path)
    check_metadata(header, plan)
    if plan.cut is not None:
        prove_cut(plan.cut, header, plan.cut.document, plan.cut.texts.values())
    # Types and offsets are the file's own: an override or an imatrix may have chosen others.
    exact_tensors = manifest.recipe.get("exact")
    on_grid = set(exact_tensors if isinstance(exact_tensors, list) else ())
    tensors = tuple(
        replace(
            t,
            slot=TensorSlot(i.name, i.shape, i.type, i.offset, i.n_bytes),
            on_grid=t.slot.name in on_grid,
        )
        for t, i in zip(plan.tensors, header.tensors.values(), strict=True)
    )
    # Rows weighted or rounded by statistics cannot be made again without them.
    needed = (weighted is not None, bool(manifest.recipe.get("calibrated")))
    exact = needed == (request.imatrix is not None, request.calibrated is not None)
    if request.calibrated is not None:
        inputs = replace(inputs, calibrated=_statistics(manifest.recipe, request.calibrated))
    return Proof(replace(plan, tensors=tensors), inputs, _row_reader(header), exact)


def _statistics(recipe: Mapping[str, object], path: Path) -> Calibrated:
    """The statistics that a file was rounded with, and the effort that was taken."""
    recorded = recipe.get("calibrated")
    if not isinstance(recorded, dict):
        raise MismatchError(
            "the file was exported without calibration statistics, and some were given",
            where=path,
            remedy="leave --calibrated out",
        )
    found = store.read(path)
    if recorded.get("data_sha256") != found.data_sha256:
        raise MismatchError(
            "these statistics are not those that the file was rounded with",
            where=path,
            wanted=f"data with the SHA-256 {recorded.get('data_sha256')}",
            remedy="give the statistics that the manifest names",
        )
    if recorded.get("method") != METHOD:
        raise MismatchError(
            f"the file was rounded by the method {recorded.get('method')!r}",
            where=path,
            wanted=f"{METHOD}: this version makes no other",
            remedy="verify it with the version of pedsup that the manifest names",
        )
    try:
        return Calibrated(found, Effort(**recorded["effort"]))
    except (TypeError, KeyError) as error:
        raise MismatchError("the recipe's effort cannot be read", where=path) from error


def _row_reader(header: GGUFHeader) -> ReadRows:
    file = DirectFile(header.path)

    def read(tensor: TensorPlan, lo: int, hi: int) -> NDArray[np.uint8]:
        row_bytes = tensor.slot.type.row_bytes(tensor.slot.shape[0])
        begin = header.data_offset + tensor.slot.offset + lo * row_bytes
        octets = bytes(file.read(begin, (hi - lo) * row_bytes))
        return np.frombuffer(octets, np.uint8).reshape(hi - lo, row_bytes)

    return read


def _whose_tokenizer(manifest: Manifest) -> Literal["adapter", "base"]:
    """Where the exported tokenizer came from, by the names of its files."""
    files = manifest.facts.tokenizer or {}
    return "adapter" if any(name.startswith("adapter/") for name in files) else "base"


def _merge_dtype(manifest: Manifest) -> RoundTo:
    found = manifest.recipe.get("merge_dtype")
    for known in get_args(RoundTo):
        if found == known:
            return cast(RoundTo, known)
    raise _differs("the recipe's merge_dtype", repr(found)[:60], get_args(RoundTo), manifest.path)


def _files(recorded: object) -> object:
    """Names and digests of a part of the manifest."""
    if isinstance(recorded, PartFacts):
        return recorded.files
    return recorded.get("files") if isinstance(recorded, Mapping) else None


def _check_sources(wanted: object, what: str, found: Mapping[str, str]) -> None:
    if dict(found) != wanted:
        raise MismatchError(
            f"this {what} is not the one that was exported",
            wanted=json.dumps(wanted),
            remedy=f"give the {what} that the manifest names",
        )
