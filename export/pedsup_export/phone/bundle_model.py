"""The model in the folder for the phone: whole, or in parts that FAT32 can hold."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pedsup.errors import BadFileError, UntrustedError
from pedsup.files.fsio import sync_file
from pedsup.gguf_file import read_header
from pedsup.progress import byte_bar
from pedsup.trust.manifest import manifest_path, read_manifest
from pedsup_export.phone.card import beside, require_model_name, write_entry

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
