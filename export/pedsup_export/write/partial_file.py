"""A file under its partial name: opened and locked, and read back when it is complete."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from pedsup.errors import OutputError
from pedsup.files import fsio
from pedsup.files.direct_io import DirectFile
from pedsup.files.fsio import lock_or_refuse
from pedsup.gguf_file import GGUFHeader
from pedsup_export.prove.finished_file import read_finished


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


def _create(path: str, _flags: int) -> int:
    return fsio.open_partial(Path(path), os.O_RDWR, 0o644)


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
