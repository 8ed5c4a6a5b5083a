"""What lies at an output already: pedsup's own, which `--force` replaces, or somebody else's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pedsup.errors import OutputError, PedsupError
from pedsup.gguf_file import read_header
from pedsup.trust.bundle import read_signature, signature_path
from pedsup.trust.manifest import DIGEST_KEY, manifest_path, read_manifest


def foreign_files(out: Path) -> tuple[Path, ...]:
    """The files that an export to `out` would replace and that pedsup did not write."""
    return tuple(_foreign(out))


def refuse_foreign(out: Path) -> None:
    """Raise `OutputError` where an export would replace a file that pedsup did not write."""
    for path in _foreign(out):
        raise OutputError(
            "pedsup did not write the file that would be replaced",
            where=path,
            wanted="a name of its own for the export",
            remedy="choose another --out, or move that file away; --force replaces it only after "
            "a question on a terminal",
        )


def _foreign(out: Path) -> Iterator[Path]:
    # A dangling link is something that somebody made, too.
    if (out.exists() or out.is_symlink()) and not _is_export(out):
        yield out
    for path, read in ((manifest_path(out), read_manifest), (signature_path(out), read_signature)):
        if path.exists() or path.is_symlink():
            try:
                read(path)
            except PedsupError:
                yield path


def _is_export(path: Path) -> bool:
    """Whether the header names a manifest, as each file of an export does."""
    try:
        return DIGEST_KEY in read_header(path).metadata
    except (PedsupError, OSError):
        return False
