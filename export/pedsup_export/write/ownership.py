"""What lies at an output already: pedsup's own, which `--force` replaces, or somebody else's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pedsup.errors import OutputError, PedsupError
from pedsup.gguf_file import read_header
from pedsup.trust.bundle import read_signature, signature_path
from pedsup.trust.manifest import DIGEST_KEY, MMPROJ_KEY, manifest_path, read_manifest


def foreign_files(out: Path, projector: Path | None = None) -> tuple[Path, ...]:
    """The files that an export to `out` would replace and that pedsup did not write."""
    return tuple(_foreign(out, projector))


def refuse_foreign(out: Path, projector: Path | None = None) -> None:
    """Raise `OutputError` where an export would replace a file that pedsup did not write."""
    for path in _foreign(out, projector):
        raise OutputError(
            "pedsup did not write the file that would be replaced",
            where=path,
            wanted="a name of its own for the export",
            remedy="choose another --out, or move that file away; --force replaces it only after "
            "a question on a terminal",
        )


def _foreign(out: Path, projector: Path | None) -> Iterator[Path]:
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
