"""The folder that goes to the phone on an SD card: everything but Termux's own packages.

    install.sh, README.txt, LEEME.txt    what to run, in plain words
    SHA256SUMS                           of every file below
    wheels/                              pedsup and what it needs, pure Python, and pip
    models/MODEL                         name, size, SHA-256 and number of parts of the model
    models/NAME.gguf[.partNN]            the model; in parts below FAT32's limit of 4 GiB
    models/NAME.gguf.*                   its manifest and signature
    models/ADAPTER                       name, size and SHA-256 of an adapter for it
    models/NAME.gguf, NAME.gguf.*        the adapter, its manifest and signature
    patches/PATCH, patches/NAME          a patch, and which model it makes of which
    debs/                                Termux's packages, where a folder of them was given

Written under a partial name, read back, and renamed when whole.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from pedsup.errors import BadFileError, OutputError, ResourceError, UntrustedError, UsageError
from pedsup.files.fsio import fsync_folder, refuse_existing, sha256_file, sync_file
from pedsup.gguf_file import read_header
from pedsup.progress import byte_bar, human_bytes
from pedsup.trust.manifest import manifest_path, read_manifest
from pedsup_export.phone import bundle_patch
from pedsup_export.phone.bundle_adapter import (
    FAT_FORBIDDEN,
    beside_model,
    check_name,
    plan_adapter,
    write_adapter,
)
from pedsup_export.phone.wheels import phone_wheels

BLOCK: Final = 1 << 20
"""Bytes: install.sh copies in these, so parts are whole multiples."""
PART_BYTES: Final = 3 << 30
FAT32_LIMIT: Final = (4 << 30) - 1
PROGRAM_ROOM: Final = 32 << 20
"""Bytes that wheels and texts may take."""
TEXTS: Final = ("install.sh", "README.txt", "LEEME.txt")
FOLDERS: Final = ("wheels", "models", "debs", bundle_patch.FOLDER)
SUMS: Final = "SHA256SUMS"

Fetch: TypeAlias = Callable[[Path, Path, Path | None], object]


@dataclass(frozen=True)
class BundleRequest:
    """What goes into the folder."""

    out: Path
    project: Path
    """The checkout of pedsup: its wheel is built, its runtime/termux copied."""
    model: Path | None = None
    debs: Path | None = None
    largest_file: int = FAT32_LIMIT
    """Bytes above which the model is cut into parts of `part_bytes`."""
    part_bytes: int = PART_BYTES
    force: bool = False
    constraints: Path | None = None
    adapter: Path | None = None
    """The adapter file that runs beside the model, which may be on the phone already."""
    patch: Path | None = None
    """A patch for the model that is on the phone already."""


@dataclass(frozen=True)
class BundlePlan:
    """What will be written, decided before anything is."""

    request: BundleRequest
    model_bytes: int
    parts: tuple[str, ...]
    """File names in models/, one when the model fits into one file."""
    beside: tuple[Path, ...]
    """Manifest and signature."""
    debs: tuple[Path, ...]
    manifest_sha256: str | None
    adapter: tuple[Path, ...] = ()
    """The adapter, its manifest and signature."""
    patch_bytes: int = 0

    @property
    def partial(self) -> Path:
        """Where the folder grows."""
        return self.request.out.with_name(f".{self.request.out.name}.partial")

    @property
    def bytes(self) -> int:
        """Upper bound of what it will take."""
        extra = sum(p.stat().st_size for p in (*self.beside, *self.debs, *self.adapter))
        return self.model_bytes + self.patch_bytes + extra + PROGRAM_ROOM


@dataclass(frozen=True)
class Bundle:
    """A finished folder."""

    folder: Path
    files: int
    bytes: int
    model_sha256: str | None

    def as_dict(self) -> dict[str, Any]:
        """The JSON document of the command."""
        return {
            "folder": str(self.folder),
            "files": self.files,
            "bytes": self.bytes,
            "model_sha256": self.model_sha256,
        }

    def as_text(self) -> str:
        """What the command prints."""
        return (
            f"{self.folder}: {self.files} files, {human_bytes(self.bytes)}\n"
            "copy all of it to the phone; README.txt and LEEME.txt in it say what to do there"
        )


def plan_bundle(request: BundleRequest) -> BundlePlan:
    """Check everything that can be checked before writing.

    Raises:
        BadFileError: the model is no GGUF, or no checkout of pedsup is there.
        UntrustedError: the manifest beside the model belongs to another file.
        OutputError: the folder exists and `force` is false.
        ResourceError: the disk has too little room.
        UsageError: a part size or a file name that cannot be.
    """
    for name in TEXTS:
        if not (request.project / "runtime" / "termux" / name).is_file():
            raise BadFileError(
                f"runtime/termux/{name} is not there",
                where=request.project,
                wanted="a checkout of pedsup",
                remedy="run this from a clone of the repository",
            )
    refuse_existing(request.out, force=request.force)
    _require_own(request.out)
    if request.part_bytes < BLOCK or request.part_bytes % BLOCK:
        raise UsageError(
            f"a part of {request.part_bytes} bytes", wanted=f"a multiple of {BLOCK} bytes"
        )
    model_bytes, parts, beside, digest = _plan_model(request)
    patch_bytes = bundle_patch.check_patch(request.patch, FAT_FORBIDDEN)
    debs, adapter = _debs(request.debs), plan_adapter(request.adapter, request.model)
    plan = BundlePlan(
        request, model_bytes, parts, beside, debs, digest, adapter=adapter, patch_bytes=patch_bytes
    )
    _require_room(plan)
    return plan


def write_bundle(plan: BundlePlan, fetch: Fetch = phone_wheels) -> Bundle:
    """Write the folder; it has its final name only when every byte of it was read back.

    Args:
        fetch: puts the wheels into a folder, as `phone_wheels` does.
    """
    request, partial = plan.request, plan.partial
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    sums: dict[str, str] = {}
    # First what may be refused: gigabytes of a damaged model are not left behind either.
    try:
        whole = _write_model(plan, partial / "models", sums) if request.model else None
        write_adapter(plan.adapter, partial / "models")
    except UntrustedError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    bundle_patch.write_patch(request.patch, partial / bundle_patch.FOLDER)
    for name in TEXTS:
        shutil.copyfile(request.project / "runtime" / "termux" / name, partial / name)
    (partial / "wheels").mkdir()
    fetch(request.project, partial / "wheels", request.constraints)
    if plan.debs:
        (partial / "debs").mkdir()
        for path in plan.debs:
            shutil.copyfile(path, partial / "debs" / path.name)
    for path in _files(partial):
        name = path.relative_to(partial).as_posix()
        sums.setdefault(name, sha256_file(path))
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    (partial / SUMS).write_text(text, encoding="ascii", newline="\n")
    _read_back(partial, sums)
    _replace(partial, request.out)
    fsync_folder(request.out.parent)
    files = list(_files(request.out))
    return Bundle(request.out, len(files), sum(p.stat().st_size for p in files), whole)


def _require_own(folder: Path) -> None:
    """With --force a folder is replaced, but never one with anything else in it, such as a card."""
    if not folder.exists():
        return
    known = {*TEXTS, *FOLDERS, SUMS}
    strange = "" if folder.is_dir() else folder.name
    strange = strange or next((p.name for p in folder.iterdir() if p.name not in known), "")
    if strange:
        raise OutputError(
            f"the output folder holds something else: {strange}",
            where=folder,
            wanted="a folder of its own, such as .../pedsup",
            remedy="choose another --out",
        )


def _replace(partial: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _plan_model(
    request: BundleRequest,
) -> tuple[int, tuple[str, ...], tuple[Path, ...], str | None]:
    model = request.model
    if model is None:
        return 0, (), (), None
    if not os.path.lexists(model):
        raise BadFileError(
            "there is no such model",
            where=model,
            wanted="a GGUF file",
            remedy="give --model the path of one (make: MODEL=), or make it first with `make gguf`",
        )
    read_header(model)
    check_name(model)
    size = model.stat().st_size
    count = -(-size // request.part_bytes) if size > request.largest_file else 1
    names = tuple(f"{model.name}.part{n + 1:02d}" for n in range(count)) if count > 1 else ()
    beside = beside_model(model)
    digest = None
    if manifest_path(model).is_file():
        manifest = read_manifest(manifest_path(model))
        digest = str(manifest.file["sha256"])
        if manifest.file["size"] != size:
            raise UntrustedError(
                "the manifest beside the model belongs to another file",
                where=manifest_path(model),
                wanted=f"{manifest.file['size']} bytes; the model has {size}",
                remedy="copy model and manifest again, or export the model again",
            )
    return size, names or (model.name,), beside, digest


def _debs(folder: Path | None) -> tuple[Path, ...]:
    if folder is None:
        return ()
    found = tuple(sorted(folder.glob("*.deb")))
    if not found:
        raise UsageError("no .deb files there", where=folder, remedy="see docs/phone.md")
    bad = next((p for p in found if set(p.name) & FAT_FORBIDDEN), None)
    if bad is not None:
        # apt writes the colon of an epoch as %3a; anything else was renamed by hand.
        raise UsageError(f"the name {bad.name!r} cannot stand on an SD card", remedy="rename it")
    return found


def _require_room(plan: BundlePlan) -> None:
    parent = plan.request.out.parent
    parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(parent).free
    if free < plan.bytes:
        raise ResourceError(
            f"{free / 1e9:.1f} GB are free",
            where=parent,
            wanted=f"{plan.bytes / 1e9:.1f} GB",
            remedy="free space there, or choose another --out",
        )


def _write_model(plan: BundlePlan, folder: Path, sums: dict[str, str]) -> str:
    """Copy the model, in parts if it needs them; the SHA-256 of the whole."""
    model = plan.request.model
    assert model is not None
    folder.mkdir()
    whole = hashlib.sha256()
    with model.open("rb") as source, byte_bar(plan.model_bytes, "model") as bar:
        for name in plan.parts:
            part = hashlib.sha256()
            left = plan.request.part_bytes if len(plan.parts) > 1 else plan.model_bytes
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
    if plan.manifest_sha256 not in (None, whole.hexdigest()):
        raise UntrustedError(
            "the model is damaged or was changed: its SHA-256 is not the manifest's",
            where=model,
            wanted=f"{plan.manifest_sha256}; it has {whole.hexdigest()}",
            remedy="copy it again; what differs is said by pedsup-export verify "
            + shlex.quote(str(model)),
        )
    for path in plan.beside:
        shutil.copyfile(path, folder / path.name)
    (folder / "MODEL").write_text(
        f"name={model.name}\nsize={plan.model_bytes}\n"
        f"sha256={whole.hexdigest()}\nparts={len(plan.parts)}\n",
        encoding="ascii",
        newline="\n",
    )
    return whole.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _read_back(folder: Path, sums: dict[str, str]) -> None:
    """Cheap cards lie about what they wrote: read past the cache where that is possible."""
    for name, digest in sums.items():
        if sha256_file(folder / name) != digest:
            raise OutputError(
                "the disk gave back other bytes than were written",
                where=folder / name,
                remedy="use another card or disk",
            )
