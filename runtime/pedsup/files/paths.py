"""Where pedsup keeps its files, following the XDG base directory specification."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pedsup.errors import OutputError
from pedsup.files.fsio import atomic_file
from pedsup.messages import message, reason_of


def data_folder() -> Path:
    """Sessions and the acknowledgement."""
    return _base("XDG_DATA_HOME", ".local/share") / "pedsup"


def config_folder() -> Path:
    """The settings file."""
    return _base("XDG_CONFIG_HOME", ".config") / "pedsup"


def cache_folder() -> Path:
    """Cached data that can be recreated."""
    return _base("XDG_CACHE_HOME", ".cache") / "pedsup"


def from_user(name: str | Path) -> Path:
    """A path as somebody gave it, with `~` and `~user` as the shell has them.

    A user that does not exist stays in the name, as in the shell; `Path.expanduser` raises.
    """
    return Path(os.path.expanduser(name))  # noqa: PTH111


def _base(variable: str, default: str) -> Path:
    value = os.environ.get(variable, "")
    # The specification: a relative path in the variable is ignored.
    return Path(value) if value.startswith("/") else Path.home() / default


def make_private(folder: Path, *, remedy: str) -> Path:
    """Make a folder that only its owner can read, and the missing ones above it.

    A folder of pedsup's own that others can read, from an earlier version, is closed to them;
    other folders that exist are left as they are.

    Raises:
        OutputError: it cannot be made (read-only home, no permission).
    """
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(mode=0o700, exist_ok=True)
        for base in (data_folder(), config_folder(), cache_folder()):
            if folder.is_relative_to(base):
                _close_to_others(base)
                _close_to_others(folder)
    except OSError as error:
        raise OutputError(
            message("this folder cannot be created: {reason}", reason=reason_of(error)),
            where=folder,
            remedy=remedy,
        ) from error
    return folder


def write_private(path: Path, document: Mapping[str, object], *, remedy: str) -> None:
    """Write a JSON file, whole or not at all, in a folder as `make_private` makes it.

    Raises:
        OutputError: the folder cannot be made, or another process writes the file.
    """
    make_private(path.parent, remedy=remedy)
    with atomic_file(path, private=True) as file:
        file.write(json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n")


def _close_to_others(folder: Path) -> None:
    mode = folder.stat().st_mode
    if mode & 0o077:
        # Shared storage on Android has no permissions to set, and says so or not.
        with suppress(OSError):
            folder.chmod(mode & 0o700)
