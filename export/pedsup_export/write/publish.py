"""Execute a plan: check space, stream, prove, digest, publish; the manifest last.

Every step leaves the old output untouched until the new one is complete and on disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pedsup.errors import MismatchError
from pedsup.files.fsio import partial_path, sync_file
from pedsup.gguf_file.projector import validate_projector
from pedsup.gguf_file.validate import validate_model_or_drafter
from pedsup.progress import byte_bar
from pedsup.trust.identity import header_digest
from pedsup.trust.manifest import core_digest, manifest_path, projector_origin
from pedsup_export.adapter.folder import WEIGHTS
from pedsup_export.plan.export_plan import ExportPlan, Inputs, ProjectorPlan
from pedsup_export.plan.general import finished_header
from pedsup_export.prove.proof import AdapterShare, require_effect, require_present
from pedsup_export.prove.quality_gate import pass_gate
from pedsup_export.source.tensor_source import PlainSource
from pedsup_export.vocabulary_cut.proof import prove_vocabulary
from pedsup_export.write.core import document_of, export_core
from pedsup_export.write.output import (
    Journal,
    compare_back,
    open_journal,
    open_partial,
    publish_both,
    require_output,
    write_at,
)
from pedsup_export.write.stream import Advance, Partials, Streamed, stream


@contextmanager
def open_projector(plan: ExportPlan) -> Iterator[BinaryIO | None]:
    """The projector's partial file, open and locked; None where none is planned."""
    if plan.projector is None:
        yield None
        return
    out = plan.projector.path
    with open_partial(partial_path(out), out) as file:
        yield file


def finish_projector(
    plan: ProjectorPlan, file: BinaryIO, core: Mapping[str, object], tensors: Mapping[str, str]
) -> dict[str, object]:
    """Write into its header what it was made of; its entry in the model's manifest.

    Args:
        core: of the model's manifest, whose entry so far is completed.
        tensors: hex SHA-256 by name of what was written.

    Raises:
        OutputError: what is on the disk is not what was written.
    """
    write_at(file.fileno(), plan.header_for(projector_origin(core)), 0)
    sync_file(file.fileno())
    written = validate_projector(file.name).header
    so_far = core["mmproj"]
    return {
        **(so_far if isinstance(so_far, dict) else {}),
        "size": written.file_size,
        "header": header_digest(written),
        "sha256": compare_back(Path(file.name), written, tensors),
    }


@dataclass(frozen=True)
class ExportResult:
    """A published export."""

    path: Path
    manifest: Path
    size: int
    sha256: str
    shares: tuple[AdapterShare, ...]


def check_output(plan: ExportPlan) -> None:
    """Refuse before the first byte what `require_output` refuses."""
    request, beside = plan.request, plan.projector.path if plan.projector else None
    partials = [partial_path(path) for path in (request.out, *([beside] if beside else ()))]
    # Blocks, not the size: a file has its full size from the start, with holes.
    there = sum(p.stat().st_blocks * 512 for p in partials if p.exists())
    require_output(
        request.out,
        plan.all_bytes - there,
        force=request.force,
        replace_foreign=request.replace_foreign,
        projector=beside,
    )


def execute(plan: ExportPlan, inputs: Inputs) -> ExportResult:
    """Run the plan; the published file, its manifest beside it.

    Raises:
        PedsupError: anything above; the final name then still holds what it held before.
    """
    check_output(plan)
    out = plan.request.out
    partial = partial_path(out)
    journal = open_journal(partial.with_name(partial.name + ".journal"), plan.digest)
    with open_partial(partial, out) as file, open_projector(plan) as projector:
        with byte_bar(plan.all_bytes, "export") as bar:
            done = _stream(plan, inputs, Partials(file, projector), journal, bar.update)
        require_effect(plan, done.shares)
        require_present(done.shares, partial)
        vocabulary = prove_vocabulary(plan.cut, partial)
        record = inputs.calibrated.statistics.record if inputs.calibrated else None
        gate = pass_gate(plan.request, partial, record.texts if record else ())
        core = export_core(plan, inputs, done)
        if vocabulary is not None:
            core["vocabulary"] = vocabulary
        if gate is not None:
            core["quality"] = gate
        if plan.projector is not None and projector is not None:
            core["mmproj"] = finish_projector(plan.projector, projector, core, done.tensors)
        write_at(file.fileno(), finished_header(plan.metadata, plan.slots, core_digest(core)), 0)
        sync_file(file.fileno())
        size = os.fstat(file.fileno()).st_size
        sha256 = compare_back(partial, validate_model_or_drafter(partial), done.tensors)
        beside = plan.projector.path if plan.projector else None
        publish_both(partial, out, document_of(core, out, size, sha256), beside)
        journal.discard()
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
        journal.discard()
        raise
    return done
