"""Hold a file that was read against its manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pedsup.errors import UntrustedError
from pedsup.trust.manifest import Manifest
from pedsup_export.prove.finished_file import Digests

COPY: Final = "copy the file and its manifest again from where they were exported"


def differs(what: str, found: object, wanted: object, path: Path) -> UntrustedError:
    """An error that names what was found and what the manifest wants."""
    return UntrustedError(
        f"{what} differs from the manifest: {found}",
        where=path,
        wanted=str(wanted),
        remedy=COPY,
    )


def require_digests(found: Digests, manifest: Manifest, path: Path) -> None:
    """Compare every tensor's digest and that of the whole file.

    Raises:
        UntrustedError: one differs.
    """
    for name, digest in found.tensors.items():
        wanted = manifest.tensors[name].sha256
        if digest != wanted:
            raise differs(f"tensor '{name}'", digest, wanted, path)
    if found.whole != manifest.file.sha256:
        raise differs("the whole file", found.whole, manifest.file.sha256, path)
