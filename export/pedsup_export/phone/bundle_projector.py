"""The projector in the folder for the phone, checked against its model's manifest."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pedsup.errors import ResourceError, UntrustedError
from pedsup.files.fsio import sha256_file
from pedsup.progress import human_bytes, say
from pedsup.trust.manifest import manifest_path, mmproj_path, read_manifest
from pedsup_export.phone.card import require_model_name, write_entry
from pedsup_export.prove.projector import check_projector

ENTRY: Final = "MMPROJ"
"""What install.sh reads: name, size and SHA-256 of the projector."""


@dataclass(frozen=True)
class ProjectorFile:
    """The projector that goes along."""

    path: Path
    name: str
    """Its name on the phone, where it is found by the model's."""
    size: int
    sha256: str


def plan_projector(model: Path | None, largest_file: int) -> ProjectorFile | None:
    """The projector beside a model whose manifest names one; None where it is not there.

    Raises:
        UntrustedError: it is damaged, or does not belong to the model.
        ResourceError: a card takes no file of its size.
    """
    if model is None or not manifest_path(model).is_file():
        return None
    found = check_projector(model, read_manifest(manifest_path(model)))
    if found is None:
        return None
    if not found.checked or found.sha256 is None:
        say(f"note: {found.path} does not go along: {found.note}")
        return None
    name = mmproj_path(model).name
    require_model_name(mmproj_path(model))
    if found.size > largest_file:
        raise ResourceError(
            f"the projector has {human_bytes(found.size)}",
            where=found.path,
            wanted=f"at most {human_bytes(largest_file)}: a card with FAT32 takes no larger file",
            remedy="export it smaller: --mmproj-type Q8_0",
        )
    return ProjectorFile(found.path, name, found.size, found.sha256)


def write_projector(file: ProjectorFile | None, folder: Path) -> None:
    """Copy the projector, and say what it is.

    Raises:
        UntrustedError: it was changed since it was checked.
    """
    if file is None:
        return
    shutil.copyfile(file.path, folder / file.name)
    if sha256_file(folder / file.name) != file.sha256:
        raise UntrustedError(
            "the projector changed while it was copied",
            where=file.path,
            remedy="let nothing write to it, and make the folder again",
        )
    write_entry(folder / ENTRY, name=file.name, size=file.size, sha256=file.sha256)
