"""What goes into the folder for the phone: model, adapter, projector, patch, packages.

The model is cut into parts where FAT32 could not hold it. All is checked as a phone will check it.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pedsup.errors import (
    BadFileError,
    OutputError,
    ResourceError,
    UntrustedError,
    UsageError,
)
from pedsup.files.fsio import sha256_file, sync_file
from pedsup.gguf_file import read_header
from pedsup.gguf_file.finite import require_finite
from pedsup.gguf_file.lora import validate_adapter
from pedsup.gguf_file.validate import validate_model
from pedsup.patch.index import read_index
from pedsup.patch.payload import Payload
from pedsup.progress import byte_bar, human_bytes, say
from pedsup.trust.assess import Policy
from pedsup.trust.identity import identify
from pedsup.trust.manifest import manifest_path, mmproj_path, read_manifest
from pedsup.trust.pair import assess_pair
from pedsup_export.phone.card import (
    FAT_FORBIDDEN,
    beside,
    require_model_name,
    require_name,
    write_entry,
)
from pedsup_export.prove.projector import check_projector

BLOCK: Final = 1 << 20
"""Bytes: install.sh copies in these, so parts are whole multiples."""


@dataclass(frozen=True)
class ModelFiles:
    """How a model is packed: its file or parts, and the files beside it."""

    path: Path
    size: int
    parts: tuple[str, ...]
    """File names in models/, one when the model fits into one file."""
    part_bytes: int
    beside: tuple[Path, ...]
    """Manifest and signature."""
    manifest_sha256: str | None


def plan_model(model: Path | None, largest_file: int, part_bytes: int) -> ModelFiles | None:
    """Check a model and its manifest; None without one.

    Raises:
        BadFileError: it is not a GGUF file, or not there.
        UntrustedError: the manifest beside it belongs to another file.
        UsageError: a name that a card cannot hold.
    """
    if model is None:
        return None
    if not os.path.lexists(model):
        raise BadFileError(
            "there is no such model",
            where=model,
            wanted="a GGUF file",
            remedy="give --model the path of one (make: MODEL=), or make it first with `make gguf`",
        )
    read_header(model)
    require_model_name(model)
    size = model.stat().st_size
    count = -(-size // part_bytes) if size > largest_file else 1
    names = tuple(f"{model.name}.part{n + 1:02d}" for n in range(count)) if count > 1 else ()
    digest = None
    if manifest_path(model).is_file():
        manifest = read_manifest(manifest_path(model))
        digest = manifest.file.sha256
        if manifest.file.size != size:
            raise UntrustedError(
                "the manifest beside the model belongs to another file",
                where=manifest_path(model),
                wanted=f"{manifest.file.size} bytes; the model has {size}",
                remedy="copy model and manifest again, or export the model again",
            )
    return ModelFiles(model, size, names or (model.name,), part_bytes, beside(model), digest)


def write_model(files: ModelFiles, folder: Path, sums: dict[str, str]) -> str:
    """Copy the model, in parts if it needs them; the SHA-256 of the whole."""
    model = files.path
    folder.mkdir()
    whole = hashlib.sha256()
    with model.open("rb") as source, byte_bar(files.size, "model") as bar:
        for name in files.parts:
            part = hashlib.sha256()
            left = files.part_bytes if len(files.parts) > 1 else files.size
            with (folder / name).open("xb") as out:
                while left and (block := source.read(min(left, 8 * BLOCK))):
                    out.write(block)
                    part.update(block)
                    whole.update(block)
                    left -= len(block)
                    bar.update(len(block))
                out.flush()
                sync_file(out.fileno())
            sums[f"models/{name}"] = part.hexdigest()
    if files.manifest_sha256 not in (None, whole.hexdigest()):
        raise UntrustedError(
            "the model is damaged or was changed: its SHA-256 is not the manifest's",
            where=model,
            wanted=f"{files.manifest_sha256}; it has {whole.hexdigest()}",
            remedy="copy it again; what differs is said by pedsup-export verify "
            + shlex.quote(str(model)),
        )
    for path in files.beside:
        shutil.copyfile(path, folder / path.name)
    sha256, parts = whole.hexdigest(), len(files.parts)
    write_entry(folder / "MODEL", name=model.name, size=files.size, sha256=sha256, parts=parts)
    return sha256


def plan_adapter(adapter: Path | None, model: Path | None) -> tuple[Path, ...]:
    """The adapter's files, checked against its manifest and, where both go along, the model."""
    if adapter is None:
        return ()
    header = validate_adapter(adapter)
    require_finite(header)
    require_model_name(adapter)
    identity = identify(header)
    if identity.problem:
        raise UntrustedError(identity.problem, where=adapter)
    if identity.manifest and identity.manifest.file.sha256 != sha256_file(adapter):
        raise UntrustedError(
            "the adapter is damaged or was changed: its SHA-256 is not the manifest's",
            where=adapter,
            remedy="copy it again, or make it again with pedsup-export adapter",
        )
    if model is not None and model.is_file():
        assess_pair(validate_model(model), adapter, Policy(as_before=False))
    return (adapter, *beside(adapter))


def write_adapter(files: tuple[Path, ...], folder: Path) -> None:
    """Copy the adapter and the files beside it, and write down what it is."""
    if not files:
        return
    folder.mkdir(exist_ok=True)
    for path in files:
        shutil.copyfile(path, folder / path.name)
    adapter = files[0]
    size, sha256 = adapter.stat().st_size, sha256_file(folder / adapter.name)
    write_entry(folder / "ADAPTER", name=adapter.name, size=size, sha256=sha256)


def check_patch(path: Path | None) -> int:
    """The size of a patch that was read in full; 0 without one.

    Raises:
        MissingFileError, BadFileError: it is not there, or damaged.
        UsageError: it has a name that an SD card cannot hold.
    """
    if path is None:
        return 0
    index, file = read_index(path)
    with file:
        Payload(file, index).require_whole()
    for name in (path.name, index.old.name, index.new.name):
        require_name(name, "rename the file and make the patch again")
    return path.stat().st_size


def write_patch(path: Path | None, folder: Path) -> None:
    """Copy the patch, and write down for install.sh what it is for."""
    if path is None:
        return
    index, file = read_index(path)
    file.close()
    folder.mkdir()
    shutil.copyfile(path, folder / path.name)
    old, new = index.old.name, index.new.name
    write_entry(folder / "PATCH", name=path.name, old=old, new=new, size=index.new.size)


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
    """Copy the projector, and write down for install.sh what it is.

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
    write_entry(folder / "MMPROJ", name=file.name, size=file.size, sha256=file.sha256)


def plan_debs(folder: Path | None) -> tuple[Path, ...]:
    """Termux's packages in a folder that was named.

    Raises:
        UsageError: there are none, or an SD card cannot hold a name.
    """
    if folder is None:
        return ()
    found = tuple(sorted(folder.glob("*.deb")))
    if not found:
        raise UsageError(
            "there are no .deb files in this folder", where=folder, remedy="see docs/phone.md"
        )
    bad = next((p for p in found if set(p.name) & FAT_FORBIDDEN), None)
    if bad is not None:
        # apt writes the colon of an epoch as %3a; anything else was renamed by hand.
        raise UsageError(f"an SD card cannot hold the name {bad.name!r}", remedy="rename it")
    return found


def read_back(folder: Path, sums: dict[str, str]) -> None:
    """Cheap cards lie about what they wrote: read past the cache where that is possible."""
    for name, digest in sums.items():
        if sha256_file(folder / name) != digest:
            raise OutputError(
                "the disk returned bytes other than those written",
                where=folder / name,
                remedy="use another card or disk",
            )
