"""Turns the old file into the new one, if the disk cannot hold both.

The model leaves its name first, so that nobody opens it half-made. Then each step keeps what it
overwrites (`pedsup.patch.undo`) and writes. Where the new header is longer than the old one, all
tensors move up, so the last goes first; where it is shorter, the first. Header and length of the
file come at the end. Every step can be taken back, in the opposite order, by the same patch.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from pedsup.errors import OutputError, UsageError
from pedsup.files.fsio import fsync_folder, open_partial, sync_file
from pedsup.patch.copying import write_at
from pedsup.patch.payload import Payload, Step
from pedsup.patch.target import OldModel, Target
from pedsup.patch.undo import UndoJournal, open_journal
from pedsup.patch.work import Work, write_whole
from pedsup.progress import byte_bar
from pedsup.trust.bundle import signature_path
from pedsup.trust.manifest import manifest_path

HEADER: Final = "header"
"""Name of the old header's copy in `Work.before`."""


@dataclass(frozen=True)
class InPlace:
    """What is needed to change the file."""

    payload: Payload
    old: OldModel
    target: Target
    work: Work

    def require_possible(self) -> None:
        """Refuse what cannot be taken back, before anything is touched.

        Raises:
            UsageError: the patch replaces tensors instead of changing them.
            OutputError: the file has another name too, or cannot be written.
        """
        final = self.work.final
        status = final.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or not os.access(final, os.W_OK):
            raise OutputError(
                "the file is a link, has a second name, or cannot be written",
                where=final,
                wanted="a file of its own for --in-place",
                remedy="give the file itself, or --out instead of --in-place",
            )
        places = [
            [(tensor.name, tensor.offset) for tensor in header.tensors.values()]
            for header in (self.old.header, self.target.header)
        ]
        if places[0] != places[1] or any(e.how == "whole" for e in self.payload.index.tensors):
            raise UsageError(
                "this patch brings new tensors: it cannot be applied in place",
                where=self.payload.index.path,
                wanted="a patch between two files of the same types and shapes",
                remedy="give --out instead of --in-place, where there is room for the new file",
            )

    @cached_property
    def shift(self) -> int:
        """Bytes by which the tensors move up."""
        return self.target.header.data_offset - self.old.header.data_offset

    @cached_property
    def steps(self) -> list[Step]:
        """All steps in the order in which they are done; those that change nothing are left out."""
        index, old, new = self.payload.index, self.old.header, self.target.header
        entries = [e for e in index.tensors if self.shift or e.how == "delta"]
        found = [step for entry in entries for step in self.payload.steps(entry, old, new)]
        return found[::-1] if self.shift > 0 else found

    def prepare(self) -> None:
        """Keep what belongs to the old file, take the room that is needed, then take the file.

        What an interrupted preparation left is made again: nothing of it was needed yet.
        """
        work = self.work
        work.clear()
        work.before.mkdir()
        write_whole(work.before / HEADER, self.old.header_raw)
        model = work.before / work.final.name
        for of in (manifest_path, signature_path):
            if of(work.final).exists():
                write_whole(of(model), of(work.final).read_bytes())
        with open_journal(work.folder) as journal:
            journal.reserve(max(map(self._reach, self.steps), default=0))
            journal.reserve(self._header_room)
        work.write_job(self.payload.index.digest, in_place=True)
        work.final.replace(work.model)
        fsync_folder(work.final.parent)
        fsync_folder(work.folder)

    def run(self) -> None:
        """From wherever the work stands to the new file, not yet under a name."""
        self._walk(len(self.steps), self.target)

    def undo(self) -> None:
        """From wherever the work stands back to the old file, under its name."""
        self._walk(0, self.old)
        work = self.work
        kept = work.before / work.final.name
        for of in (manifest_path, signature_path):
            if of(kept).exists():
                write_whole(of(work.final), of(kept).read_bytes())
            else:
                of(work.final).unlink(missing_ok=True)
        work.model.replace(work.final)
        fsync_folder(work.final.parent)

    def _walk(self, goal: int, side: OldModel | Target) -> None:
        """Do or take back steps until `goal` of them are done; then header and length."""
        fd = open_partial(self.work.model, os.O_RDWR)
        try:
            with open_journal(self.work.folder) as journal:
                done = self._put_back(fd, journal)
                left = sum(step.n_bytes for step in self._between(done, goal))
                with byte_bar(left, "patch") as bar:
                    self._steps(fd, journal, done, goal, bar.update)
                # A header may be where tensors were, and what is cut off may be a tensor's old
                # end: from here on the last step must not be done again.
                journal.write(goal, 0, os.pread(fd, self._header_room, 0))
                write_at(fd, side.header_raw, 0)
                os.ftruncate(fd, side.header.file_size)
                sync_file(fd)
        finally:
            os.close(fd)

    @property
    def _header_room(self) -> int:
        return max(len(self.old.header_raw), len(self.target.header_raw))

    def _put_back(self, fd: int, journal: UndoJournal) -> int:
        """Undo the step that was begun last, whether it wrote or not; how many are done then."""
        record = journal.last()
        if record is None:
            return 0
        end = record.at + len(record.data)
        if record.done > len(self.steps) or end > os.fstat(fd).st_size + self._header_room:
            raise OutputError(
                "what was kept of the interrupted patch does not fit the file",
                where=self.work.folder,
                wanted="the folder as the interrupted patch left it",
                remedy="copy the file again from where it came from",
            )
        write_at(fd, record.data, record.at)
        sync_file(fd)
        return record.done

    def _between(self, done: int, goal: int) -> list[Step]:
        return self.steps[min(done, goal) : max(done, goal)]

    def _steps(
        self,
        fd: int,
        journal: UndoJournal,
        done: int,
        goal: int,
        advance: Callable[[int], object],
    ) -> None:
        while done != goal:
            back = goal < done
            step = self.steps[done - 1 if back else done]
            source, target = step.old_at, step.new_at
            if back:
                source, target = target, source
            made = self.payload.made(step, os.pread(fd, step.n_bytes, source), back=back)
            # Padding goes with the tensor; where the file is shorter there is nothing to keep.
            made += bytes(self._reach(step) - step.n_bytes)
            journal.write(done, target, os.pread(fd, len(made), target))
            write_at(fd, made, target)
            sync_file(fd)
            done += -1 if back else 1
            advance(step.n_bytes)

    def _reach(self, step: Step) -> int:
        """Bytes that a step writes: the piece, and after a tensor's last one the padding."""
        if not self.shift or step.begin + step.n_bytes < step.tensor.n_bytes:
            return step.n_bytes
        return step.n_bytes + -step.tensor.n_bytes % self.target.header.alignment
