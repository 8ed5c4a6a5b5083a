"""Write a planned adapter file: tensors, digests, manifest last; never half a file."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pedsup
from pedsup.errors import OutputError, ResourceError
from pedsup.files.direct_io import DirectFile
from pedsup.files.fsio import partial_path, refuse_existing, sync_file
from pedsup.gguf_file.lora import validate_adapter
from pedsup.progress import human_bytes
from pedsup.texts.intended_use import FULL
from pedsup.trust.manifest import DIGEST_KEY, core_digest, manifest_document, manifest_path
from pedsup.trust.pair import FITS
from pedsup_export.gguf.header import header_bytes, string
from pedsup_export.plan.adapter_plan import AdapterFilePlan
from pedsup_export.plan.planner import unused_text
from pedsup_export.prove.adapter_file import file_sha256
from pedsup_export.prove.finished_file import read_finished
from pedsup_export.write.core import adapter_summary
from pedsup_export.write.ownership import refuse_foreign
from pedsup_export.write.partial_file import open_partial
from pedsup_export.write.publish import SPARE, publish_both


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
    _check_output(plan)
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
        core = build_core(plan, fits, digests)
        entries = [
            string(DIGEST_KEY, core_digest(core)) if e.key == DIGEST_KEY else e
            for e in plan.metadata
        ]
        _write(file.fileno(), header_bytes(entries, plan.slots), 0)
        sync_file(file.fileno())
        found = read_finished(DirectFile(partial), validate_adapter(partial))
        if found.tensors != digests:
            raise OutputError(
                "the file is not on the disk as it was written",
                where=partial,
                remedy="the disk is failing or full: choose another --out",
            )
        size = os.fstat(file.fileno()).st_size
        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()
        facts = {"name": out.name, "size": size, "sha256": found.whole}
        publish_both(partial, out, manifest_document(core, facts, now))
    return AdapterFile(out, manifest_path(out), size, found.whole)


def build_core(
    plan: AdapterFilePlan, fits: list[dict[str, object]], digests: dict[str, str]
) -> dict[str, object]:
    """The manifest's core: what made this file, which bases it fits, every tensor's digest."""
    request, values = plan.request, {e.key: e.value for e in plan.metadata}
    kinds = Counter(slot.type.name for slot in plan.slots)
    core: dict[str, object] = {
        "architecture": values["general.architecture"],
        "kind": "adapter",
        "intended_use": FULL,
        "license": values["general.license"],
        "base": {"name": plan.bases[0].identity.name},
        FITS: fits,
        "adapter": {
            "name": request.adapter.name,
            "revision": request.adapter.revision,
            "files": dict(plan.sources["adapter"]),
            "config": adapter_summary(plan.adapter),
            "unused_deltas": [unused_text(u) for u in plan.unused],
        },
        "recipe": {"quant": request.kind, "alpha": plan.alpha},
        "versions": {"pedsup": pedsup.__version__, "python": platform.python_version()},
        "mixture": {
            kind: {"tensors": n,
                   "bytes": sum(s.n_bytes for s in plan.slots if s.type.name == kind)}
            for kind, n in kinds.items()
        },
        "warnings": list(plan.warnings),
        "tensors": {
            slot.name: {
                "type": slot.type.name,
                "shape": list(slot.shape),
                "bytes": slot.n_bytes,
                "sha256": digests[slot.name],
            }
            for slot in plan.slots
        },
    }  # fmt: skip
    # Through JSON once, so that the digest is that of what a reader parses.
    return dict(json.loads(json.dumps(core)))


def _check_output(plan: AdapterFilePlan) -> None:
    out = plan.request.out
    if out.is_dir():
        raise OutputError("the output is a folder", where=out, wanted="the name of a file")
    refuse_existing(out, force=plan.request.force)
    refuse_foreign(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    needed, free = plan.output_bytes + SPARE, shutil.disk_usage(out.parent).free
    if needed > free:
        raise ResourceError(
            f"the disk has {human_bytes(free)} free",
            where=out.parent,
            wanted=human_bytes(needed),
            remedy="free space, or choose another --out",
        )


def _write_tensors(plan: AdapterFilePlan, fd: int) -> dict[str, str]:
    """Write every tensor at its place; hex SHA-256 of each by name."""
    places = {slot.name: slot for slot in plan.slots}
    digests: dict[str, str] = {}
    os.ftruncate(fd, plan.output_bytes)
    for change in plan.changes:
        for name, packed in plan.packed(change).items():
            octets = packed.tobytes()
            _write(fd, octets, len(plan.header) + places[name].offset)
            digests[name] = hashlib.sha256(octets).hexdigest()
    return digests


def _write(fd: int, octets: bytes, at: int) -> None:
    view = memoryview(octets)
    while view:
        n = os.pwrite(fd, view, at)
        view, at = view[n:], at + n
