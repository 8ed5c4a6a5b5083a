"""Whether the file at the output is what an export would make again: judged by contents alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from pedsup.errors import PedsupError
from pedsup.progress import say
from pedsup.trust.manifest import (
    Manifest,
    manifest_path,
    mmproj_path,
    projector_origin,
    read_manifest,
)
from pedsup_export.plan.export_plan import ExportPlan, Inputs
from pedsup_export.plan.general import finished_header
from pedsup_export.prove.quality_gate import same_gate
from pedsup_export.prove.verify import VerifyReport, verify
from pedsup_export.write.core import export_core
from pedsup_export.write.stream import Streamed

_KNOWN_LATER: Final = ("shares", "size", "sha256", "header")
"""What the proof measured, and the digests of the projector's file."""


def unchanged(plan: ExportPlan, inputs: Inputs) -> VerifyReport | None:
    """The check of the file at the output, when the plan would make the same file again.

    Compared are the header byte for byte (metadata, tensors, types, their order), the digests of
    all inputs, every option that the manifest records, the versions, and the gate that was
    passed. The file itself is read and compared with its manifest.

    Returns:
        None when anything differs or is missing; the reason is printed.
    """
    out = plan.request.out
    if not out.exists():
        return None
    try:
        manifest = read_manifest(manifest_path(out))
        why = _difference(plan, inputs, manifest)
        if why is None:
            return verify(out)
    except PedsupError as error:
        why = error.found
    say(f"{out} is made again: {why}")
    return None


def _difference(plan: ExportPlan, inputs: Inputs, manifest: Manifest) -> str | None:
    """The first thing that is not as recorded; the cheap ones first."""
    header = finished_header(plan.metadata, plan.slots, manifest.core_sha256)
    if header != _start(plan.request.out, len(header)):
        return "its metadata, tensors or types would be others"
    if why := _projector_difference(plan, manifest):
        return why
    if not same_gate(plan.request, manifest.facts.quality):
        return "it has not passed this quality gate"
    # What the export itself finds out is taken as recorded: the digests of what it writes.
    beside = manifest.facts.mmproj
    recorded = {**manifest.tensors, **(beside.tensors if beside else {})}
    written = {name: tensor.sha256 for name, tensor in recorded.items()}
    if set(written) != {t.slot.name for t in plan.all_tensors}:
        return "its manifest lists other tensors"
    try:
        wanted = export_core(plan, inputs, Streamed(written, inputs.checkpoint.digest(), ()))
    except KeyError:
        return "its manifest lists other tensors"
    # The vocabulary's choice is in the header: the map of its token ids.
    for name in sorted({*wanted, *manifest.core} - {"quality", "vocabulary"}):
        if _comparable(wanted.get(name)) != _comparable(manifest.core.get(name)):
            return f"'{name}' is not the same"
    return None


def _projector_difference(plan: ExportPlan, manifest: Manifest) -> str | None:
    """The same for the projector's metadata and tensors; its bytes are read with the model's."""
    planned, path = plan.projector, mmproj_path(plan.request.out)
    if (planned is None) != (manifest.facts.mmproj is None):
        return "it was exported with a projector" if planned is None else "it has no projector"
    if planned is None:
        return None
    header = planned.header_for(projector_origin(manifest.core))
    if not path.is_file():
        return "its projector is not there"
    if _start(path, len(header)) != header:
        return "its projector would be another"
    return None


def _comparable(value: object) -> object:
    """A field of the core without what is only known when the file is complete."""
    if isinstance(value, dict):
        value = {k: v for k, v in value.items() if k not in _KNOWN_LATER}
    return json.loads(json.dumps(value))


def _start(path: Path, n_bytes: int) -> bytes:
    with path.open("rb") as file:
        return file.read(n_bytes)
