"""Execute a plan: check space, stream, prove, digest, publish; the manifest last.

Every step leaves the old output untouched until the new one is complete and on disk.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import pedsup
from pedsup.errors import MismatchError, OutputError, ResourceError
from pedsup.files import fsio
from pedsup.files.direct_io import DirectFile
from pedsup.files.fsio import (
    atomic_file,
    lock_or_refuse,
    partial_path,
    publish,
    refuse_existing,
    sync_file,
)
from pedsup.gguf_file.validate import validate_drafter
from pedsup.progress import byte_bar, human_bytes
from pedsup.texts.intended_use import FULL
from pedsup.trust.bundle import signature_path
from pedsup.trust.manifest import DIGEST_KEY, core_digest, manifest_document, manifest_path
from pedsup_export.adapter.folder import WEIGHTS, Adapter
from pedsup_export.gguf.header import KV, header_bytes, string
from pedsup_export.plan.export_plan import ExportPlan, Inputs
from pedsup_export.plan.general import chosen_base
from pedsup_export.plan.planner import unused_text
from pedsup_export.prove.finished_file import read_finished
from pedsup_export.prove.proof import AdapterShare, require_effect, require_present
from pedsup_export.prove.quality_gate import pass_gate
from pedsup_export.source.hub import ModelRef
from pedsup_export.source.tensor_source import PlainSource
from pedsup_export.vocabulary_cut.proof import prove_vocabulary
from pedsup_export.write.ownership import refuse_foreign
from pedsup_export.write.stream import Advance, Journal, Streamed, stream

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
    refuse_existing(out, force=plan.request.force)
    if not plan.request.replace_foreign:
        refuse_foreign(out)
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
    partial = partial_path(out)
    # Blocks, not the size: the file has its full size from the start, with holes.
    there = partial.stat().st_blocks * 512 if partial.exists() else 0
    needed, free = plan.output_bytes + SPARE - there, shutil.disk_usage(folder).free
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
    with open_partial(partial, out) as file:
        with byte_bar(plan.output_bytes, "export") as bar:
            done = _stream(plan, inputs, file, journal, bar.update)
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
        _set_digest(plan, file, core_digest(core))
        sync_file(file.fileno())
        size, sha256 = os.fstat(file.fileno()).st_size, read_back(partial, done.tensors)
        document = manifest_document(
            core, {"name": out.name, "size": size, "sha256": sha256}, _now()
        )
        publish_both(partial, out, document)
        journal.path.unlink(missing_ok=True)
    return ExportResult(out, manifest_path(out), size, sha256, done.shares)


def _stream(
    plan: ExportPlan, inputs: Inputs, file: BinaryIO, journal: Journal, advance: Advance
) -> Streamed:
    try:
        done = stream(plan, inputs, file, journal, advance)
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
    """Read the finished file from disk once, compare every tensor's digest; the file's own.

    Raises:
        OutputError: what is on the disk is not what was written.
    """
    found = read_finished(DirectFile(partial), validate_drafter(partial))  # it may be a drafter
    for name, digest in found.tensors.items():
        if digest != tensors[name]:
            raise OutputError(
                f"tensor '{name}' is not on the disk as it was written",
                where=partial,
                remedy="the disk is failing or full: export to another one",
            )
    return found.whole


def _create(path: str, _flags: int) -> int:
    return fsio.open_partial(Path(path), os.O_RDWR, 0o644)


def open_partial(partial: Path, out: Path) -> BinaryIO:
    """Open the partial file for reading and writing without truncating it, and lock it."""
    # By name, so that the file knows its path: what is there already is read past the cache.
    file = open(partial, "r+b", opener=_create)  # noqa: SIM115 - the caller's, locked
    try:
        lock_or_refuse(file, out)
        # The holder of the lock may have published and renamed it meanwhile.
        if not partial.exists() or not os.path.samestat(os.fstat(file.fileno()), partial.stat()):
            raise OutputError(
                "another process has just written this output",
                where=out,
                remedy="look at it; start again if it is not what you want",
            )
    except BaseException:
        file.close()
        raise
    return file


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


def _model(ref: ModelRef, files: Mapping[str, str]) -> dict[str, object]:
    return {"name": ref.name, "revision": ref.revision, "files": dict(files)}


def build_core(plan: ExportPlan, inputs: Inputs, done: Streamed) -> dict[str, object]:
    """The manifest's core: everything that made this file, and every tensor's digest."""
    request, digests = plan.request, plan.sources
    values = {e.key: e.value for e in plan.metadata}
    template = values.get("tokenizer.chat_template")
    recipe: dict[str, object] = {
        "quant": plan.file_type.name,
        "merge_dtype": request.merge_dtype,
        "merge_base": request.merge_base,
        "tensor_types": [f"{p}={t}" for p, t in request.tensor_types],
        "imatrix": {
            "name": request.imatrix.name if request.imatrix else None,
            "files": digests.get("imatrix"),
        },
    }
    if plan.calibration and inputs.calibrated:
        recipe["calibrated"] = {
            **inputs.calibrated.record(digests["calibrated"][plan.calibration.file.name]),
            "predicted_kl": plan.calibration.predicted_kl,
        }
    if plan.exact:
        recipe["exact"] = plan.exact
    core: dict[str, object] = {
        "architecture": plan.architecture,
        "intended_use": FULL,
        "license": values["general.license"],
        "base": _model(chosen_base(request), {**digests["base"], **done.shards}),
        "tokenizer": digests["tokenizer"],
        "chat_template_sha256": _text_digest(template),
        "recipe": recipe,
        "versions": {"pedsup": pedsup.__version__, "python": platform.python_version()},
        "mixture": plan.mixture(),
        "dropped": [asdict(d) for d in plan.dropped],
        "warnings": list(plan.warnings),
        "tensors": {
            t.slot.name: {
                "type": t.slot.type.name,
                "shape": list(t.slot.shape),
                "bytes": t.slot.n_bytes,
                "source": t.origin.source,
                "adapted": t.adapted,
                "sha256": done.tensors[t.slot.name],
            }
            for t in plan.tensors
        },
    }
    if request.adapter and inputs.adapter:
        core["adapter"] = {
            **_model(request.adapter, digests["adapter"]),
            "config": adapter_summary(inputs.adapter),
            "unused_deltas": [unused_text(u) for u in plan.unused],
            "shares": {s.name: round(s.share, 4) for s in done.shares},
        }
    # Through JSON once, so that the digest is that of what a reader parses.
    return dict(json.loads(json.dumps(core)))


def adapter_summary(adapter: Adapter) -> dict[str, object]:
    """What the adapter's configuration says, for the manifest."""
    ranks = sorted({d.rank for d in adapter.deltas.values()})
    return {
        "trained_on": adapter.base_model_name,
        "revision": adapter.revision,
        "r": ranks[0] if len(ranks) == 1 else ranks,
        "modules": len(adapter.deltas),
        "replaced_tensors": sorted(adapter.replacements),
    }


def _text_digest(text: object) -> str | None:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest() if isinstance(text, str) else None


def publish_both(partial: Path, out: Path, manifest: dict[str, object]) -> None:
    """Give the file its name, then the manifest.

    The manifest is on the disk before the old file is replaced: a disk that is full by then
    leaves the old pair, and a kill between the two renames leaves whole files.
    """
    with atomic_file(manifest_path(out)) as file:
        file.write(json.dumps(manifest, indent=1, ensure_ascii=False).encode("utf-8"))
        file.flush()
        sync_file(file.fileno())
        publish(partial, out)
        signature_path(out).unlink(missing_ok=True)  # it was of the file that was there before
