"""Where an output goes: what is there already, whether there is room, how it gets its name.

Beside it grows the journal, by which a killed export continues.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

from pedsup.errors import OutputError, PedsupError, ResourceError
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
from pedsup.files.journal import LineJournal
from pedsup.gguf_file import GGUFHeader, read_header
from pedsup.progress import human_bytes
from pedsup.trust.bundle import read_signature, signature_path
from pedsup.trust.manifest import DIGEST_KEY, MMPROJ_KEY, manifest_path, read_manifest
from pedsup_export.prove.finished_file import read_finished


@dataclass(frozen=True)
class Entry:
    """A complete tensor: the digest of its bytes, and the mark of the inputs they came from."""

    tensor: str
    sha256: str
    inputs: str


Journal: TypeAlias = LineJournal[Entry]
"""One JSON line for each complete tensor, in their order, after a line with the plan's digest."""


def open_journal(path: Path, plan_digest: str) -> Journal:
    """The journal of a plan; it reads nothing of another plan's."""
    return LineJournal(path, _entry, head={"plan": plan_digest})


def _entry(row: Any) -> Entry:
    return Entry(row["tensor"], row["sha256"], row["inputs"])


FLUSH_EVERY = 128 << 20
"""Bytes after which the disk is given work."""


class Flush:
    """Brings what was written to the disk in the background, every so often."""

    def __init__(self) -> None:
        self._n_bytes: Counter[int] = Counter()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="flush")
        self._last: Future[None] | None = None

    def __enter__(self) -> Flush:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def wrote(self, fd: int, n_bytes: int) -> None:
        """Note what was written to a file; raises what the disk said of earlier bytes."""
        self._n_bytes[fd] += n_bytes
        if self._n_bytes[fd] >= FLUSH_EVERY and (self._last is None or self._last.done()):
            self.finish()
            self._n_bytes[fd], self._last = 0, self._pool.submit(os.fdatasync, fd)

    def finish(self) -> None:
        """Wait for the disk; an error that it reports here it reports no second time."""
        if self._last is not None:
            self._last.result()
            self._last = None


SPARE: Final = 64 << 20
"""Bytes left free on the output disk: manifest, journal, file system."""


def require_output(
    out: Path,
    needed: int,
    *,
    force: bool,
    replace_foreign: bool = False,
    projector: Path | None = None,
) -> None:
    """Refuse before the first byte: output exists or is not ours, folder not writable, disk full.

    Args:
        needed: bytes that will be written, without those that an interrupted run left.
        projector: the file that will be written beside `out`, if any.

    Raises:
        OutputError, ResourceError: with what to do.
    """
    if out.is_dir():
        raise OutputError(
            "the output is a folder",
            where=out,
            wanted="the name of a file",
            remedy=f"give --out {out / 'model.gguf'}",
        )
    for path in (out, *([projector] if projector else ())):
        refuse_existing(path, force=force)
    if not replace_foreign:
        refuse_foreign(out, projector)
    _make_writable(out.parent)
    wanted, free = needed + SPARE, shutil.disk_usage(out.parent).free
    if wanted > free:
        raise ResourceError(
            f"the disk has {human_bytes(free)} free",
            where=out.parent,
            wanted=f"{human_bytes(wanted)} for the export",
            remedy="free space, choose another --out, or a smaller type",
        )


def _make_writable(folder: Path) -> None:
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


def refuse_foreign(out: Path, projector: Path | None = None) -> None:
    """Raise `OutputError` where an export would replace a file that pedsup did not write."""
    for path in foreign_files(out, projector):
        raise OutputError(
            "pedsup did not write the file that would be replaced",
            where=path,
            wanted="a name of its own for the export",
            remedy="choose another --out, or move that file away; --force replaces it only after "
            "a question on a terminal",
        )


def foreign_files(out: Path, projector: Path | None = None) -> Iterator[Path]:
    """The files that an export to `out` would replace and that pedsup did not write."""
    for file, key in ((out, DIGEST_KEY), (projector, MMPROJ_KEY)):
        # A dangling link is something that somebody made, too.
        if file and (file.exists() or file.is_symlink()) and not _is_export(file, key):
            yield file
    for path, read in ((manifest_path(out), read_manifest), (signature_path(out), read_signature)):
        if path.exists() or path.is_symlink():
            try:
                read(path)
            except PedsupError:
                yield path


def _is_export(path: Path, key: str) -> bool:
    """Whether the header names a manifest, or a projector's the model, as those of an export do."""
    try:
        return key in read_header(path).metadata
    except (PedsupError, OSError):
        return False


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


def write_at(fd: int, octets: bytes | memoryview, at: int) -> None:
    """Write all bytes at a position of a file."""
    view = memoryview(octets)
    while view:
        n = os.pwrite(fd, view, at)
        view, at = view[n:], at + n


def compare_back(partial: Path, header: GGUFHeader, tensors: Mapping[str, str]) -> str:
    """Read the finished file from disk once, compare every tensor's digest; the file's own.

    Raises:
        OutputError: what is on the disk is not what was written.
    """
    found = read_finished(DirectFile(partial), header)
    for name, digest in found.tensors.items():
        if digest != tensors[name]:
            raise OutputError(
                f"tensor '{name}' is not on the disk as it was written",
                where=partial,
                remedy="the disk is failing or full: export to another one",
            )
    return found.whole


def publish_both(
    partial: Path, out: Path, manifest: dict[str, object], projector: Path | None = None
) -> None:
    """Give the file its name, the projector's before it, then the manifest.

    The manifest is on the disk before the old file is replaced: a disk that is full by then
    leaves the old pair, and a kill between the two renames leaves whole files.
    """
    with atomic_file(manifest_path(out)) as file:
        file.write(json.dumps(manifest, indent=1, ensure_ascii=False).encode("utf-8"))
        file.flush()
        sync_file(file.fileno())
        if projector is not None:
            publish(partial_path(projector), projector)
        publish(partial, out)
        signature_path(out).unlink(missing_ok=True)  # it was of the file that was there before
