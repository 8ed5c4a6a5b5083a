"""Makes the new file beside the old one, which stays as it is."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pedsup.errors import MismatchError, ResourceError
from pedsup.files.direct_io import DirectFile
from pedsup.files.fsio import open_partial, sync_file
from pedsup.messages import message
from pedsup.patch.index import TensorPatch, damaged
from pedsup.patch.payload import Payload, Step
from pedsup.patch.target import OldModel, Target
from pedsup.patch.work import Work
from pedsup.progress import byte_bar, human_bytes

SPARE: Final = 64 << 20
"""Bytes that stay free on the disk."""


@dataclass(frozen=True)
class Copying:
    """What is needed to make the file."""

    payload: Payload
    old: OldModel
    target: Target
    work: Work

    def require_room(self) -> None:
        """Raise `ResourceError` if the disk cannot hold the new file beside the old one."""
        model, size = self.work.model, self.target.header.file_size
        there = model.stat().st_size if model.exists() else 0
        needed, free = size + SPARE - there, shutil.disk_usage(self.work.final.parent).free
        if needed > free:
            raise ResourceError(
                message("the disk has {size} free", size=human_bytes(free)),
                where=self.work.final.parent,
                wanted=message("{size} for the new file", size=human_bytes(needed)),
                remedy="free space, choose another --out, or give --in-place",
            )

    def run(self) -> None:
        """Write the file; correct parts of an interrupted run are kept.

        Raises:
            MismatchError: the old file is not what it was, tensor by tensor.
            BadFileError: the patch is damaged or forged.
        """
        header = self.target.header
        source = DirectFile(self.old.path)
        fd = open_partial(self.work.model, os.O_RDWR)
        try:
            there = os.fstat(fd).st_size
            write_at(fd, self.target.header_raw, 0)
            with byte_bar(header.file_size, "patch") as bar:
                for entry in self.payload.index.tensors:
                    steps = list(self.payload.steps(entry, self.old.header, header))
                    end = steps[-1].new_at + steps[-1].n_bytes
                    if there >= end and _digest(fd, steps) == entry.sha256:
                        bar.update(steps[-1].tensor.n_bytes)
                    else:
                        self._tensor(fd, source, entry, steps, bar.update)
            # Padding between tensors was never written, or is zero by now.
            os.ftruncate(fd, header.file_size)
            sync_file(fd)
        finally:
            os.close(fd)

    def _tensor(
        self,
        fd: int,
        source: DirectFile,
        entry: TensorPatch,
        steps: list[Step],
        advance: Callable[[int], object],
    ) -> None:
        before, after = hashlib.sha256(), hashlib.sha256()
        for step in steps:
            # A copy: the view is of a buffer that the next reading fills.
            old = b"" if entry.how == "whole" else bytes(source.read(step.old_at, step.n_bytes))
            if entry.how != "whole" and len(old) != step.n_bytes:
                raise _changed(self.old, entry)
            before.update(old)
            new = self.payload.made(step, old)
            if entry.how != "same":
                after.update(new)
            write_at(fd, new, step.new_at)
            advance(step.n_bytes)
        if entry.old_sha256 not in (None, before.hexdigest()):
            raise _changed(self.old, entry)
        if entry.how != "same" and after.hexdigest() != entry.sha256:
            raise damaged(
                self.payload.index.path, message("tensor '{name}' comes out wrong", name=entry.name)
            )


def write_at(fd: int, data: bytes, at: int) -> None:
    """All of `data` at byte `at`. Raises `OSError` where the disk takes less."""
    view = memoryview(data)
    while view:
        n = os.pwrite(fd, view, at)
        view, at = view[n:], at + n


def _digest(fd: int, steps: list[Step]) -> str:
    digest = hashlib.sha256()
    for step in steps:
        digest.update(os.pread(fd, step.n_bytes, step.new_at))
    return digest.hexdigest()


def _changed(old: OldModel, entry: TensorPatch) -> MismatchError:
    return MismatchError(
        message(
            "tensor '{name}' of the old file is not what it was: it is damaged or was changed",
            name=entry.name,
        ),
        where=old.path,
        wanted=f"SHA-256 {entry.old_sha256}",
        remedy="copy the old file again from where it came from, or get the whole new one",
    )
