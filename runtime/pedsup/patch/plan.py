"""What a patch is going to make, decided before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pedsup.errors import PedsupError, UsageError
from pedsup.files.fsio import refuse_existing
from pedsup.gguf_file import read_header
from pedsup.patch.index import PatchIndex, read_index
from pedsup.patch.payload import Payload
from pedsup.trust.identity import header_digest


@dataclass(frozen=True)
class ApplyRequest:
    """The command line."""

    old: Path
    patch: Path
    out: Path | None = None
    in_place: bool = False
    undo: bool = False
    require_signature: bool = False


@dataclass(frozen=True)
class ApplyPlan:
    """What is going to be made, decided before anything is written."""

    request: ApplyRequest
    payload: Payload
    final: Path
    in_place: bool
    ready: bool = False
    """Whether `final` is the new version already."""

    @property
    def index(self) -> PatchIndex:
        return self.payload.index

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        index = self.index
        hows = [entry.how for entry in index.tensors]
        return {
            "old": str(self.request.old),
            "patch": index.digest,
            "new": str(self.final),
            "in_place": self.in_place,
            "ready": self.ready,
            "new_bytes": index.new.size,
            "patch_bytes": sum(entry.packed for entry in index.tensors),
            "signed": index.signature is not None,
            "tensors": {how: hows.count(how) for how in ("same", "delta", "whole")},
        }


@contextmanager
def open_plan(request: ApplyRequest) -> Iterator[ApplyPlan]:
    """The plan of a request.

    Raises:
        UsageError: options that exclude each other.
        BadFileError: the patch is damaged.
        OutputError: the new file exists.
    """
    in_place = request.in_place or request.undo
    if in_place and request.out is not None:
        raise UsageError(
            "--in-place keeps the file's name: --out has no place there", remedy="give one of them"
        )
    index, file = read_index(request.patch)
    with file:
        final = request.old if in_place else request.out or request.old.with_name(index.new.name)
        ready = next((path for path in (final, request.old) if _is_new(path, index)), None)
        if ready == request.old and request.out is not None:
            raise UsageError(
                "the file is the new version already",
                where=request.old,
                wanted="the version that the patch begins with",
                remedy="give no --out, or copy the file",
            )
        if ready is not None:
            yield ApplyPlan(request, Payload(file, index), ready, in_place, ready=True)
            return
        if not in_place:
            if final.resolve() == request.old.resolve():
                raise UsageError(
                    "the new file would have the old one's name",
                    where=final,
                    wanted="another --out, or --in-place",
                    remedy=f"pedsup-run patch {request.old} {request.patch} --in-place",
                )
            refuse_existing(final, force=False)
        yield ApplyPlan(request, Payload(file, index), final, in_place)


def _is_new(path: Path, index: PatchIndex) -> bool:
    """Whether a file is the new version, by its header."""
    try:
        return path.is_file() and header_digest(read_header(path)) == index.new.header_sha256
    except (PedsupError, OSError):
        return False  # whoever opens it next says what is wrong
