"""Execute a plan: check space, stream, prove, digest, publish; the manifest last.

Every step leaves the old output untouched until the new one is complete and on disk.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pedsup.errors import MismatchError, OutputError, ResourceError
from pedsup.files.fsio import (
    atomic_file,
    partial_path,
    publish,
    refuse_existing,
    sync_file,
)
from pedsup.gguf_file.validate import validate_drafter
from pedsup.progress import byte_bar, human_bytes
from pedsup.trust.bundle import signature_path
from pedsup.trust.manifest import DIGEST_KEY, core_digest, manifest_document, manifest_path
from pedsup_export.adapter.folder import WEIGHTS
from pedsup_export.gguf.header import KV, header_bytes, string
from pedsup_export.plan.export_plan import ExportPlan, Inputs
from pedsup_export.prove.proof import AdapterShare, require_effect, require_present
from pedsup_export.prove.quality_gate import pass_gate
from pedsup_export.source.tensor_source import PlainSource
from pedsup_export.vocabulary_cut.proof import prove_vocabulary
from pedsup_export.write.core import build_core
from pedsup_export.write.journal import Journal
from pedsup_export.write.ownership import refuse_foreign
from pedsup_export.write.partial_file import compare_back, open_partial
from pedsup_export.write.projector import finish_projector, open_projector
from pedsup_export.write.stream import Advance, Partials, Streamed, stream

SPARE = 64 << 20
"""Bytes left free on the output disk: manifest, journal, file system."""


@dataclass(frozen=True)
class ExportResult:
    """A published export."""

    path: Path
    manifest: Path
    size: int
    sha256: str
    shares: tuple[AdapterShare, ...]


def check_output(plan: ExportPlan) -> None:
    """Refuse before the first byte: output exists or is not ours, folder not writable, disk full.

    Raises:
        OutputError, ResourceError: with what to do.
    """
    out = plan.request.out
    if out.is_dir():
        raise OutputError(
            "the output is a folder",
            where=out,
            wanted="the name of a file",
            remedy=f"give --out {out / 'model.gguf'}",
        )
    beside = plan.projector.path if plan.projector else None
    for path in (out, *([beside] if beside else ())):
        refuse_existing(path, force=plan.request.force)
    if not plan.request.replace_foreign:
        refuse_foreign(out, beside)
    folder = out.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the output folder cannot be made: {error.strerror}", where=folder
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(
            "the output folder is not writable",
            where=folder,
            remedy="choose another --out, or change the folder's permissions",
        )
    # Blocks, not the size: a file has its full size from the start, with holes.
    partials = [partial_path(path) for path in (out, *([beside] if beside else ()))]
    there = sum(p.stat().st_blocks * 512 for p in partials if p.exists())
    needed, free = plan.all_bytes + SPARE - there, shutil.disk_usage(folder).free
    if needed > free:
        raise ResourceError(
            f"the disk has {human_bytes(free)} free",
            where=folder,
            wanted=f"{human_bytes(needed)} for the export",
            remedy="free space, choose another --out, or a smaller --quant",
        )


def execute(plan: ExportPlan, inputs: Inputs) -> ExportResult:
    """Run the plan; the published file, its manifest beside it.

    Raises:
        PedsupError: anything above; the final name then still holds what it held before.
    """
    check_output(plan)
    out = plan.request.out
    partial = partial_path(out)
    journal = Journal(partial.with_name(partial.name + ".journal"))
    with open_partial(partial, out) as file, open_projector(plan) as projector:
        with byte_bar(plan.all_bytes, "export") as bar:
            done = _stream(plan, inputs, Partials(file, projector), journal, bar.update)
        require_effect(plan, done.shares)
        require_present(done.shares, partial)
        vocabulary = prove_vocabulary(plan.cut, partial)
        record = inputs.calibrated.statistics.record if inputs.calibrated else None
        gate = pass_gate(plan.request, partial, record.texts if record else ())
        core = build_core(plan, inputs, done)
        if vocabulary is not None:
            core["vocabulary"] = vocabulary
        if gate is not None:
            core["quality"] = gate
        if plan.projector is not None and projector is not None:
            core["mmproj"] = finish_projector(plan.projector, projector, core, done.tensors)
        _set_digest(plan, file, core_digest(core))
        sync_file(file.fileno())
        size, sha256 = os.fstat(file.fileno()).st_size, read_back(partial, done.tensors)
        document = manifest_document(
            core, {"name": out.name, "size": size, "sha256": sha256}, _now()
        )
        beside = plan.projector.path if plan.projector else None
        publish_both(partial, out, document, beside)
        journal.path.unlink(missing_ok=True)
    return ExportResult(out, manifest_path(out), size, sha256, done.shares)


def _stream(
    plan: ExportPlan, inputs: Inputs, files: Partials, journal: Journal, advance: Advance
) -> Streamed:
    try:
        done = stream(plan, inputs, files, journal, advance)
        if inputs.adapter is not None:
            for source in inputs.adapter.replacements.values():
                if isinstance(source, PlainSource):
                    source.file.require_unchanged(plan.sources["adapter"][WEIGHTS])
    except MismatchError:
        # What was written is not what the inputs are now: nothing of it may be kept.
        journal.path.unlink(missing_ok=True)
        raise
    return done


def read_back(partial: Path, tensors: Mapping[str, str]) -> str:
    """`compare_back` of a model, which may be a drafter."""
    return compare_back(partial, validate_drafter(partial), tensors)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()


def _set_digest(plan: ExportPlan, file: BinaryIO, digest: str) -> None:
    """Write the header again with the manifest's digest; its length does not change."""
    entries: list[KV] = [
        string(DIGEST_KEY, digest) if e.key == DIGEST_KEY else e for e in plan.metadata
    ]
    header = header_bytes(entries, plan.slots)
    if os.pwrite(file.fileno(), header, 0) != len(header):
        raise OutputError("the header was not written whole", where=Path(file.name))


def publish_both(
    partial: Path, out: Path, manifest: dict[str, object], projector: Path | None = None
) -> None:
    """Give the file its name, the projector's before it, then the manifest.

    The manifest is on the disk before the old file is replaced: a disk that is full by then
    leaves the old pair, and a kill between the two renames leaves whole files.
    """
    with atomic_file(manifest_path(out)) as file:
        file.write(json.dumps(manifest, indent=1, ensure_ascii=False).encode("utf-8"))
        file.flush()
        sync_file(file.fileno())
        if projector is not None:
            publish(partial_path(projector), projector)
        publish(partial, out)
        signature_path(out).unlink(missing_ok=True)  # it was of the file that was there before
