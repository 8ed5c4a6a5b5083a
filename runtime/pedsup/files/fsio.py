"""Files that are whole or not there: write to a partial name, fsync, rename."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from pedsup.errors import OutputError
from pedsup.files.direct_io import DirectFile, sha256_range

CHUNK = 1 << 22
UNSUPPORTED: Final = frozenset(
    {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOTTY}
)
"""Error numbers of file systems without locks, or without fsync of folders."""


def partial_path(final: Path) -> Path:
    """Where the bytes of `final` live until complete: its own folder, so that rename is atomic."""
    return final.with_name(f".{final.name}.partial")


def work_folder(final: Path) -> Path:
    """Where a patch makes the new `final`, and keeps the old one while it works in place."""
    return final.with_name(f".{final.name}.patch")


def open_partial(partial: Path, flags: int, mode: int = 0o666) -> int:
    """Open or make a partial file for writing, and nothing that only has its name.

    A link that somebody put there would have another file overwritten; a pipe would wait.

    Raises:
        OutputError: the name belongs to a link, to a file with a second name, or to a special file.
    """
    try:
        own = os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(partial, flags | own, mode)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise _no_partial(partial) from error
        raise
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(fd)
        raise _no_partial(partial)
    return fd


def _no_partial(partial: Path) -> OutputError:
    return OutputError(
        "what has the name of the unfinished output is a link, or not a regular file",
        where=partial,
        wanted="nothing with this name, or what an interrupted run left",
        remedy="look at it and remove it, or choose another output",
    )


def refuse_existing(final: Path, *, force: bool) -> None:
    """Raise `OutputError` if `final` exists and `force` was not given."""
    if final.exists() and not force:
        raise OutputError(
            "the output already exists",
            where=final,
            remedy="give --force to replace it, or choose another --out",
        )


def lock_or_refuse(file: BinaryIO, path: Path) -> None:
    """Take an exclusive lock on an open file, or say that another process is writing it.

    Android's shared storage, FAT and some network folders have no locks: there none is taken.
    """
    if try_lock(file.fileno()) is False:
        raise OutputError(
            "another process is writing this output",
            where=path,
            remedy="wait for it to end, or choose another output",
        )


def try_lock(fd: int) -> bool | None:
    """Lock a file for this process: False if another one holds it, None without locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno in UNSUPPORTED:
            return None
        raise
    return True


def sync_file(fd: int) -> None:
    """fsync where the file system has it. Raises `OSError` if the data did not reach the disk."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def fsync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable, if the file system can: shared storage cannot."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return  # writable, not readable: as Android's app folders may be
    try:
        sync_file(fd)
    finally:
        os.close(fd)


def publish(partial: Path, final: Path) -> None:
    """fsync `partial`, rename it to `final` and make the rename durable."""
    with partial.open("rb") as file:
        sync_file(file.fileno())
    partial.replace(final)
    fsync_folder(final.parent)


@contextmanager
def atomic_file(final: Path, *, force: bool = True, private: bool = False) -> Iterator[BinaryIO]:
    """Write a small file so that `final` is either the old one or the whole new one.

    Args:
        private: readable by its owner only, whatever the umask.

    Raises:
        OutputError: it exists and `force` is false, or another process holds it.
    """
    refuse_existing(final, force=force)
    partial = partial_path(final)
    fd = open_partial(partial, os.O_WRONLY | os.O_APPEND, 0o600 if private else 0o666)
    with os.fdopen(fd, "ab") as file:
        lock_or_refuse(file, final)
        file.truncate(0)
        try:
            yield file
            file.flush()
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        publish(partial, final)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file, read past the page cache where that is possible."""
    file = DirectFile(path)
    return sha256_range(file, 0, file.stat().st_size)
