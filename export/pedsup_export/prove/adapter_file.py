"""Reopen an adapter file and check it: digests, that its tensors are the adapter's, its base."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pedsup.errors import MismatchError, UntrustedError
from pedsup.files.direct_io import DirectFile
from pedsup.gguf_file import GGUFHeader
from pedsup.gguf_file.lora import require_fits
from pedsup.trust.bundle import COPY
from pedsup.trust.identity import ModelIdentity
from pedsup.trust.manifest import Manifest, manifest_path
from pedsup.trust.verified import FileState, read_in_full, record_reading, recorded_reading
from pedsup_export.adapter.base_file import BaseFile
from pedsup_export.plan.adapter_file import plan_adapter_file
from pedsup_export.plan.adapter_plan import AdapterFileRequest
from pedsup_export.prove.finished_file import Wanted, read_finished, require_digests
from pedsup_export.source.hub import ModelRef


def file_sha256(header: GGUFHeader, identity: ModelIdentity) -> str:
    """The digest of a whole file, which is read if that was not done before.

    Raises:
        UntrustedError: it is not what the manifest beside it says.
    """
    path = header.path
    if identity.problem:
        raise UntrustedError(identity.problem, where=manifest_path(path), remedy=COPY)
    state = FileState.of(path)
    found = recorded_reading(path, state, identity.digest)
    if found is None:
        found = read_in_full(path, state)
        record_reading(path, state, identity.digest, found)
    wanted = identity.manifest.file.sha256 if identity.manifest else found.sha256
    if wanted != found.sha256:
        raise UntrustedError(
            "the model file is not the one that was exported: it is damaged or was changed",
            where=path,
            wanted=f"SHA-256 {wanted}, not {found.sha256}",
            remedy=COPY,
        )
    return found.sha256


def check_adapter_file(
    header: GGUFHeader, manifest: Manifest, base: Path | None, adapter: ModelRef | None
) -> str:
    """Compare an adapter file's bytes with its manifest, and with base and adapter where given.

    Args:
        header: of `validate_adapter`.
        manifest: the one that names the file.
        base: a GGUF file that it is for.
        adapter: the PEFT adapter that it was made from.

    Returns:
        The digest of the whole file.

    Raises:
        UntrustedError: a digest differs.
        MismatchError: these are not its base and adapter.
    """
    found = read_finished(DirectFile(header.path), header)
    require_digests(found, Wanted(manifest.tensors, manifest.file.sha256), header.path)
    if base is not None and adapter is not None:
        _check_base(header, manifest, base)
        _check_tensors(manifest, base, adapter)
    return found.whole


def _check_base(header: GGUFHeader, manifest: Manifest, path: Path) -> None:
    base = BaseFile.open(path)
    require_fits(header, base.header)
    digest = file_sha256(base.header, base.identity)
    if digest not in {fit.sha256 for fit in manifest.facts.fits}:
        raise MismatchError(
            "the adapter file was made for another base file",
            where=path,
            wanted=", ".join(f"{fit.name} ({fit.sha256[:12]})" for fit in manifest.facts.fits),
            remedy="give the base file that it was made for",
        )


def _check_tensors(manifest: Manifest, base: Path, adapter: ModelRef) -> None:
    """Make every tensor again."""
    kind = manifest.recipe.get("quant")
    plan = plan_adapter_file(
        AdapterFileRequest(adapter, (base,), manifest.path, kind=str(kind), allow_unused=True)
    )
    recorded = manifest.facts.adapter.files if manifest.facts.adapter else None
    again = {
        name: hashlib.sha256(packed.tobytes()).hexdigest()
        for change in plan.changes
        for name, packed in plan.packed(change).items()
    }
    same = again == {name: t.sha256 for name, t in manifest.tensors.items()}
    if not same or recorded != dict(plan.sources["adapter"]):
        raise MismatchError(
            "this adapter is not the one that the file was made from",
            where=adapter.folder,
            wanted="the same files, and the same bytes when its tensors are made again",
            remedy="give the adapter that the manifest names",
        )
