"""The error for a file that is not what its manifest says."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pedsup.errors import UntrustedError

COPY: Final = "copy the file and its manifest again from where they were exported"


def differs(what: str, found: object, wanted: object, path: Path) -> UntrustedError:
    """An error that names what was found and what the manifest wants."""
    return UntrustedError(
        f"{what} differs from the manifest: {found}",
        where=path,
        wanted=str(wanted),
        remedy=COPY,
    )
