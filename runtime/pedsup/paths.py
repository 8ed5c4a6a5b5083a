"""Where pedsup keeps what it must remember, by the XDG base directory specification."""

from __future__ import annotations

import os
from pathlib import Path

from pedsup.errors import OutputError


def data_folder() -> Path:
    """Sessions and the acknowledgement."""
    return _base("XDG_DATA_HOME", ".local/share") / "pedsup"


def config_folder() -> Path:
    """The settings file."""
    return _base("XDG_CONFIG_HOME", ".config") / "pedsup"


def cache_folder() -> Path:
    """States that can be made again."""
    return _base("XDG_CACHE_HOME", ".cache") / "pedsup"


def _base(variable: str, default: str) -> Path:
    value = os.environ.get(variable, "")
    # The specification: a relative path in the variable is ignored.
    return Path(value) if value.startswith("/") else Path.home() / default


def make_private(folder: Path, *, remedy: str) -> Path:
    """Make a folder that only its owner can read.

    Raises:
        OutputError: it cannot be made (read-only home, no permission).
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"this folder cannot be made: {error.strerror}", where=folder, remedy=remedy
        ) from error
    return folder
