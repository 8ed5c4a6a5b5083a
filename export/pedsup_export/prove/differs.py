"""Compare a file that was read with its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pedsup.errors import UntrustedError
from pedsup.trust.manifest import TensorFacts
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


@dataclass(frozen=True)
class Wanted:
    """What a manifest says of a file."""

    tensors: Mapping[str, TensorFacts]
    sha256: str


def require_digests(found: Digests, wanted: Wanted, path: Path) -> None:
    """Compare every tensor's digest and that of the whole file.

    Raises:
        UntrustedError: one differs.
    """
    for name, digest in found.tensors.items():
        if digest != (tensor := wanted.tensors[name].sha256):
            raise differs(f"tensor '{name}'", digest, tensor, path)
    if found.whole != wanted.sha256:
        raise differs("the whole file", found.whole, wanted.sha256, path)
