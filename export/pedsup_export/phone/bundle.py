"""The folder that goes to the phone on an SD card: everything but Termux's own packages.

    install.sh, README.txt, LEEME.txt    what to run, in plain words
    SHA256SUMS                           of every file below
    wheels/                              pedsup and what it needs, pure Python, and pip
    models/MODEL                         name, size, SHA-256 and number of parts of the model
    models/NAME.gguf[.partNN]            the model; in parts below FAT32's limit of 4 GiB
    models/NAME.gguf.*                   its manifest and signature
    models/MMPROJ                        name, size and SHA-256 of the model's projector
    models/mmproj-NAME.gguf              the projector, for pictures
    models/ADAPTER                       name, size and SHA-256 of an adapter for it
    models/NAME.gguf, NAME.gguf.*        the adapter, its manifest and signature
    patches/PATCH, patches/NAME          a patch, and which model it turns into which
    debs/                                Termux's packages, where a folder of them was given

Written under a partial name, read back, and renamed when whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from pedsup.errors import BadFileError, OutputError, ResourceError, UntrustedError, UsageError
from pedsup.files.fsio import fsync_folder, refuse_existing, sha256_file
from pedsup.progress import human_bytes
from pedsup_export.phone.bundle_parts import (
    BLOCK,
    ModelFiles,
    ProjectorFile,
    check_patch,
    plan_adapter,
    plan_debs,
    plan_model,
    plan_projector,
    read_back,
    write_adapter,
    write_model,
    write_patch,
    write_projector,
)
from pedsup_export.phone.card import FAT32_LIMIT
from pedsup_export.phone.wheels import phone_wheels

PART_BYTES: Final = 3 << 30
PROGRAM_ROOM: Final = 32 << 20
"""Bytes that wheels and texts may take."""
PHONE_ROOM: Final = 10**9
"""Bytes on the phone beside the model: Termux, its packages, the program, caches."""
FREE: Final = "@FREE@"
"""In the texts, where the free storage that the phone needs stands."""
TEXTS: Final = ("install.sh", "README.txt", "LEEME.txt")
PATCHES: Final = "patches"
FOLDERS: Final = ("wheels", "models", "debs", PATCHES)
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
    """A patch for the model that is already on the phone."""


@dataclass(frozen=True)
class BundlePlan:
    """What will be written, decided before anything is."""

    request: BundleRequest
    model: ModelFiles | None
    debs: tuple[Path, ...]
    adapter: tuple[Path, ...] = ()
    """The adapter, its manifest and signature."""
    patch_bytes: int = 0
    projector: ProjectorFile | None = None

    @property
    def beside_bytes(self) -> int:
        """Of what the phone keeps beside the model."""
        adapter = sum(path.stat().st_size for path in self.adapter)
        return adapter + (self.projector.size if self.projector else 0) + self.patch_bytes

    @property
    def partial(self) -> Path:
        """Where the folder grows."""
        return self.request.out.with_name(f".{self.request.out.name}.partial")

    @property
    def bytes(self) -> int:
        """Upper bound of what it will take."""
        beside, size = (self.model.beside, self.model.size) if self.model else ((), 0)
        extra = sum(p.stat().st_size for p in (*beside, *self.debs))
        return size + self.beside_bytes + extra + PROGRAM_ROOM

    def as_dict(self) -> dict[str, object]:
        """The JSON document of `--dry-run`."""
        model, projector, patch = self.model, self.projector, self.request.patch
        return {
            "folder": str(self.request.out),
            "model": model
            and {"path": str(model.path), "size": model.size, "files": list(model.parts),
                 "sha256": model.manifest_sha256},
            "projector": projector
            and {"path": str(projector.path), "name": projector.name, "size": projector.size,
                 "sha256": projector.sha256},
            "adapter": str(self.adapter[0]) if self.adapter else None,
            "patch": str(patch) if patch else None,
            "debs": [path.name for path in self.debs],
            "bytes_at_most": self.bytes,
            "phone_free": _free(self),
        }  # fmt: skip

    def as_text(self) -> str:
        """What `--dry-run` prints."""
        model, projector, patch = self.model, self.projector, self.request.patch
        rows: list[tuple[str, object]] = [("folder", self.request.out)]
        if model is not None:
            files = "one file" if len(model.parts) == 1 else f"{len(model.parts)} parts"
            rows.append(("model", f"{model.path}, {human_bytes(model.size)}, {files}"))
        if projector is not None:
            rows.append(("projector", f"{projector.path}, {human_bytes(projector.size)}"))
        rows += [("adapter", self.adapter[0])] if self.adapter else []
        rows += [("patch", f"{patch}, {human_bytes(self.patch_bytes)}")] if patch else []
        rows += [("debs", f"{len(self.debs)} packages of Termux")] if self.debs else []
        rows += [
            ("takes", f"at most {human_bytes(self.bytes)}"),
            ("phone", f"{_free(self)} must be free"),
        ]
        return "\n".join(f"{name:<13} {value}" for name, value in rows)


@dataclass(frozen=True)
class Bundle:
    """A finished folder."""

    folder: Path
    files: int
    bytes: int
    model_sha256: str | None

    def as_dict(self) -> dict[str, object]:
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
        BadFileError: the model is not a GGUF file, or this is not a checkout of pedsup.
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
    plan = BundlePlan(
        request,
        plan_model(request.model, request.largest_file, request.part_bytes),
        plan_debs(request.debs),
        plan_adapter(request.adapter, request.model),
        check_patch(request.patch),
        plan_projector(request.model, request.largest_file),
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
        whole = write_model(plan.model, partial / "models", sums) if plan.model else None
        write_projector(plan.projector, partial / "models")
        write_adapter(plan.adapter, partial / "models")
    except UntrustedError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    write_patch(request.patch, partial / PATCHES)
    for name in TEXTS:
        text = (request.project / "runtime" / "termux" / name).read_text("utf-8")
        (partial / name).write_text(text.replace(FREE, _free(plan)), "utf-8", newline="\n")
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
    read_back(partial, sums)
    _replace(partial, request.out)
    fsync_folder(request.out.parent)
    files = list(_files(request.out))
    return Bundle(request.out, len(files), sum(p.stat().st_size for p in files), whole)


def _free(plan: BundlePlan) -> str:
    """The free storage that an installation needs, rounded up, e.g. '6.3 GB'."""
    files = plan.beside_bytes + (plan.model.size if plan.model else 0)
    tenths = -(-(files + PHONE_ROOM) // 10**8)
    return f"{tenths / 10:.1f} GB"


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


def _require_room(plan: BundlePlan) -> None:
    parents = plan.request.out.absolute().parents
    parent = next(folder for folder in parents if folder.is_dir())
    free = shutil.disk_usage(parent).free
    if free < plan.bytes:
        raise ResourceError(
            f"{free / 1e9:.1f} GB are free",
            where=parent,
            wanted=f"{plan.bytes / 1e9:.1f} GB",
            remedy="free space there, or choose another --out",
        )


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
