"""The small inputs, held open while a plan is made from them, so that a digest is of what was read.

They are opened and digested before anything is parsed, and afterwards their names must still
lead to the same files in the same state. (The shards of a checkpoint are too large for a second
reading: `input_pass` digests them as they are merged.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pedsup.files.direct_io import DirectFile, sha256_range
from pedsup_export.adapter.folder import CONFIG, WEIGHTS
from pedsup_export.plan.general import chosen_base
from pedsup_export.plan.request import ExportRequest
from pedsup_export.projector.processor import FILES
from pedsup_export.source.checkpoint import INDEX, SINGLE
from pedsup_export.source.safetensors_file import State, changed, file_state

Digests = Mapping[str, Mapping[str, str]]
"""Role ('base', 'adapter', 'tokenizer', 'processor', 'imatrix', 'calibrated') -> file name -> hex
SHA-256."""


def small_inputs(request: ExportRequest) -> dict[str, list[Path]]:
    """The files that are read whole when a plan is made, by role; some may be missing.

    The tokenizer digests what it reads by itself: which files those are depends on what it finds.
    Statistics are digested where they are opened; the file stays open for the rounding.
    """
    base = chosen_base(request).folder
    index = [base / INDEX] if not (base / SINGLE).exists() else []
    found = {"base": [base / "config.json", *index]}
    if request.adapter is not None:
        found["adapter"] = [request.adapter.folder / name for name in (CONFIG, WEIGHTS)]
    if request.mmproj is not None:
        found["processor"] = [folder / n for folder in processor_folders(request) for n in FILES]
    if request.imatrix is not None:
        found["imatrix"] = [request.imatrix]
    return found


def processor_folders(request: ExportRequest) -> list[Path]:
    """Where the processor's configuration is looked for: the first folder that has one."""
    for folder in (request.base.folder, chosen_base(request).folder):
        if any((folder / name).is_file() for name in FILES):
            return [folder]
    return []


@contextmanager
def held(files: Mapping[str, list[Path]]) -> Iterator[Digests]:
    """Open and digest files; at the end of the context their names must lead to the same state.

    Missing files are left out: the reader that needs one reports it.

    Raises:
        MismatchError: a file was changed or replaced meanwhile.
    """
    opened: list[tuple[Path, DirectFile, State]] = []
    digests: dict[str, dict[str, str]] = {}
    for role, paths in files.items():
        digests[role] = {}
        for path in paths:
            if not path.is_file():
                continue
            file = DirectFile(path)
            state = file.stat()
            opened.append((path, file, file_state(state)))
            digests[role][path.name] = sha256_range(file, 0, state.st_size)
    yield digests
    for path, file, before in opened:
        if not _is_still(path, before) or file_state(file.stat()) != before:
            raise changed(path)


def _is_still(path: Path, before: State) -> bool:
    try:
        return file_state(path.stat()) == before
    except OSError:
        return False
