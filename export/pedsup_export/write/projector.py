"""The projector file of an export: opened beside the model, tied to it, and read back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pedsup.files.fsio import partial_path, sync_file
from pedsup.gguf_file.projector import validate_projector
from pedsup.trust.identity import header_digest
from pedsup.trust.manifest import projector_origin
from pedsup_export.plan.export_plan import ExportPlan, ProjectorPlan
from pedsup_export.write.output import compare_back, open_partial, write_at


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
