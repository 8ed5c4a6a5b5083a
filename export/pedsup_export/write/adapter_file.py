"""Write a planned adapter file: tensors, digests, manifest last; never half a file."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from pedsup.files.fsio import partial_path, sync_file
from pedsup.gguf_file.lora import validate_adapter
from pedsup.trust.manifest import core_digest, manifest_path
from pedsup_export.plan.adapter_plan import AdapterFilePlan
from pedsup_export.plan.general import finished_header
from pedsup_export.prove.adapter_file import file_sha256
from pedsup_export.write.core import adapter_core, document_of
from pedsup_export.write.output import (
    compare_back,
    open_partial,
    publish_both,
    require_output,
    write_at,
)


@dataclass(frozen=True)
class AdapterFile:
    """A published adapter file."""

    path: Path
    manifest: Path
    size: int
    sha256: str


def write_adapter_file(plan: AdapterFilePlan) -> AdapterFile:
    """Write the file; it has its name when it is complete and was read back.

    Raises:
        OutputError, ResourceError: the output exists, is not ours, or does not fit.
        UntrustedError: a base file is not what its manifest says.
    """
    out = plan.request.out
    require_output(out, plan.output_bytes, force=plan.request.force)
    fits = [
        {
            "name": base.header.path.name,
            "size": base.header.file_size,
            "header": base.identity.digest,
            "sha256": file_sha256(base.header, base.identity),
        }
        for base in plan.bases
    ]
    partial = partial_path(out)
    with open_partial(partial, out) as file:
        os.ftruncate(file.fileno(), 0)
        digests = _write_tensors(plan, file.fileno())
        core = adapter_core(plan, fits, digests)
        write_at(file.fileno(), finished_header(plan.metadata, plan.slots, core_digest(core)), 0)
        sync_file(file.fileno())
        sha256 = compare_back(partial, validate_adapter(partial), digests)
        size = os.fstat(file.fileno()).st_size
        publish_both(partial, out, document_of(core, out, size, sha256))
    return AdapterFile(out, manifest_path(out), size, sha256)


def _write_tensors(plan: AdapterFilePlan, fd: int) -> dict[str, str]:
    """Write every tensor at its place; hex SHA-256 of each by name."""
    places = {slot.name: slot for slot in plan.slots}
    digests: dict[str, str] = {}
    os.ftruncate(fd, plan.output_bytes)
    for change in plan.changes:
        for name, packed in plan.packed(change).items():
            octets = packed.tobytes()
            write_at(fd, octets, len(plan.header) + places[name].offset)
            digests[name] = hashlib.sha256(octets).hexdigest()
    return digests
