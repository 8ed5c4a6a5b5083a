"""The folder in which the new file is made, beside its place, and how its files get their names.

    .NAME.gguf.patch/
        job.json                what is done here, by which patch
        NAME.gguf               the new file as far as it is made
        NAME.gguf.manifest.json, NAME.gguf.sig
        before/                 (in place) header, manifest and signature of the old file
        undo.0, undo.1          (in place) what the last step overwrote

The model takes its name last, when its manifest and signature have theirs: what has the name is
whole and can be checked.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pedsup.errors import BadFileError, OutputError
from pedsup.files.fsio import atomic_file, fsync_folder, lock_or_refuse, open_partial, work_folder
from pedsup.files.source import read_json_object
from pedsup.trust.bundle import signature_path
from pedsup.trust.manifest import manifest_path

SCHEMA: Final = "pedsup-patch-job/1"
_JOB_BYTES: Final = 1 << 16


@dataclass(frozen=True)
class Work:
    """The folder of one job; it is locked."""

    final: Path
    """The name that the new file takes."""

    @property
    def folder(self) -> Path:
        return work_folder(self.final)

    @property
    def model(self) -> Path:
        return self.folder / self.final.name

    @property
    def before(self) -> Path:
        """What belonged to the old file."""
        return self.folder / "before"

    @property
    def job(self) -> Path:
        return self.folder / "job.json"

    def write_job(self, patch: str, *, in_place: bool) -> None:
        """Say what is done here; from now on the job can go on."""
        record = {"schema": SCHEMA, "patch": patch, "in_place": in_place}
        write_whole(self.job, json.dumps(record).encode())

    def read_job(self) -> tuple[str, bool] | None:
        """The patch, and whether it works in place; None if no job got that far."""
        if not self.job.exists():
            return None
        try:
            record = read_json_object(self.job, "the record of a patch", _JOB_BYTES)
        except BadFileError:
            return None
        return str(record.get("patch")), record.get("in_place") is True

    def clear(self) -> None:
        """Remove what is in the folder, but for the lock."""
        for path in self.folder.iterdir():
            if path.name == "lock":
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def remove(self) -> None:
        shutil.rmtree(self.folder)
        fsync_folder(self.final.parent)

    def write_beside(self, manifest: bytes, signature: bytes | None) -> None:
        """The manifest and the signature of the new file, in the folder."""
        write_whole(manifest_path(self.model), manifest)
        if signature is None:
            signature_path(self.model).unlink(missing_ok=True)
        else:
            write_whole(signature_path(self.model), signature)

    def publish(self) -> None:
        """Give manifest, signature and then the model their names."""
        self.publish_beside(self.model)
        self.model.replace(self.final)
        fsync_folder(self.final.parent)

    def publish_beside(self, source: Path) -> None:
        """Give the manifest and signature of `source` the names that belong to the new file."""
        for of in (signature_path, manifest_path):
            if of(source).exists():
                of(source).replace(of(self.final))
            else:
                of(self.final).unlink(missing_ok=True)
        fsync_folder(self.final.parent)


@contextmanager
def open_work(final: Path) -> Iterator[Work]:
    """The folder for a new file, made where it is missing, locked for this process.

    Raises:
        OutputError: another process works there, or something else has the name.
    """
    work = Work(final)
    folder = work.folder
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OutputError(
            "what has the name of the unfinished output is a link, or not a folder",
            where=folder,
            remedy="look at it and remove it, or choose another output",
        )
    folder.mkdir(exist_ok=True)
    with os.fdopen(open_partial(folder / "lock", os.O_RDWR), "r+b") as lock:
        lock_or_refuse(lock, final)
        try:
            yield work
        finally:
            # A job that was refused leaves nothing behind.
            if work.folder.exists() and not work.job.exists() and not work.model.exists():
                work.remove()


def write_whole(path: Path, data: bytes) -> None:
    """A small file, whole and on the disk, or not there."""
    with atomic_file(path) as file:
        file.write(data)
