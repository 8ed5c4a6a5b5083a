"""Folders that are whole or not there: fill a partial one, fsync it, rename it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pedsup.errors import OutputError
from pedsup.files.fsio import fsync_folder, lock_or_refuse, partial_path, sync_file


def is_filled(folder: Path) -> bool:
    """Whether there is something at `folder` that a rename would replace."""
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


def refuse_filled(folder: Path, *, force: bool) -> None:
    """Raise `OutputError` if `folder` is a file, or is a filled folder and `force` is not given."""
    if folder.exists() and not folder.is_dir():
        raise OutputError("the output is a file, not a folder", where=folder)
    if is_filled(folder) and not force:
        raise OutputError(
            "the output folder exists and is not empty",
            where=folder,
            remedy="give --force to replace it, or choose another --out",
        )


def publish_folder(partial: Path, final: Path) -> None:
    """fsync every file of `partial` and rename it to `final`, replacing what is there.

    POSIX has no atomic exchange of two full folders: the old one is first renamed aside
    (`.NAME.old`), so that a kill in between leaves both whole, only under other names.
    """
    for path in sorted(partial.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                sync_file(file.fileno())
        elif path.is_dir():
            fsync_folder(path)
    fsync_folder(partial)
    old = final.with_name(f".{final.name}.old")
    if old.exists():
        shutil.rmtree(old)
    if is_filled(final):
        final.rename(old)
    partial.rename(final)
    fsync_folder(final.parent)
    if old.exists():
        shutil.rmtree(old)


@contextmanager
def atomic_folder(final: Path, *, force: bool = False) -> Iterator[Path]:
    """An empty folder to fill; it takes the name `final` when the block ends without an error.

    Raises:
        OutputError: `final` holds something and `force` is false, or another process is
            filling it.
    """
    refuse_filled(final, force=force)
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(final)
    lock = final.with_name(f".{final.name}.lock")
    with lock.open("ab") as file:
        lock_or_refuse(file, final)
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir()
        try:
            yield partial
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            lock.unlink(missing_ok=True)
            raise
        publish_folder(partial, final)
        lock.unlink(missing_ok=True)
