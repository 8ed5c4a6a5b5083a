"""A patch in the folder for the phone: megabytes where the old model is on the phone already."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from pedsup.patch.index import read_index
from pedsup.patch.payload import Payload
from pedsup_export.phone.card import require_name, write_entry

FOLDER: Final = "patches"
ENTRY: Final = "PATCH"
"""What install.sh reads: name, size, old and new of the patch."""


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
    """Copy the patch and write down what it is for."""
    if path is None:
        return
    index, file = read_index(path)
    file.close()
    folder.mkdir()
    shutil.copyfile(path, folder / path.name)
    old, new = index.old.name, index.new.name
    write_entry(folder / ENTRY, name=path.name, old=old, new=new, size=index.new.size)
