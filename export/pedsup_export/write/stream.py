"""One pass over the inputs: blocks of rows are made on several threads and written in place.

Model and projector are made in the same pass: each block goes to the file that its tensor is of.

A bounded number of blocks exists at once, so memory does not grow with the model. Workers read,
digest, merge and quantize (all of which release the interpreter lock); the calling thread writes
and digests the output. Blocks are made in the order of the input, which is read once, and
written where they belong. A journal beside the partial file names every tensor that is complete,
with its SHA-256 and the mark of the inputs read until then (`input_pass`), so that a killed
export continues where it stopped, with the same inputs only.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from pedsup.files.direct_io import BLOCK, DirectFile
from pedsup.optional import require
from pedsup.progress import say
from pedsup_export.plan.export_plan import ExportPlan, Inputs, ProjectorPlan, TensorPlan
from pedsup_export.prove.proof import (
    AdapterShare,
    Proof,
    ReadRows,
    Sample,
    make_rows,
    row_reader,
)
from pedsup_export.write.input_pass import InputPass, Rows, Schedule, Skim, Work, schedule
from pedsup_export.write.output import Entry, Flush, Journal, write_at

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Packed = NDArray[np.uint8]

Advance = Callable[[int], object]


@dataclass(frozen=True)
class Streamed:
    """What was written and from what: SHA-256 of tensors and of shards by name; the proof."""

    tensors: dict[str, str]
    shards: dict[str, str]
    shares: tuple[AdapterShare, ...]


@dataclass(frozen=True)
class Partials:
    """The files that grow, open for reading and writing and locked; the projector's if planned."""

    model: BinaryIO
    projector: BinaryIO | None = None


def stream(
    plan: ExportPlan, inputs: Inputs, files: Partials, journal: Journal, advance: Advance
) -> Streamed:
    """Write header and tensors of each file, and make sampled rows again to compare them.

    Args:
        files: as many as the plan has.
        advance: told how many output bytes were finished.

    Raises:
        PedsupError: an input cannot be read or merged, or was changed while it was read.
    """
    todo = schedule(plan.all_tensors, inputs)
    with (
        InputPass(inputs.checkpoint.shards, [*todo.places.values()]) as reading,
        _workers(plan.request.threads) as pool,
        Flush() as flush,
    ):
        writer = _Writer(plan, inputs, _targets(plan, files), pool, flush)
        try:
            n_done = _begin(writer, todo, journal, reading)
            advance(sum(t.slot.n_bytes for t, _ in todo.tensors[:n_done]))
            for rows, packed in _in_order(pool, plan, inputs, todo.after(n_done), reading):
                digest = writer.add(rows, packed)
                advance(packed.nbytes)
                if digest is not None:
                    name = rows.tensor.slot.name
                    entry = Entry(name, digest, reading.mark(todo.places[name]))
                    journal.append(vars(entry), durable=False)
            shares = writer.shares()
            flush.finish()
        except BaseException:
            reading.stop()  # whoever still waits for a block that will not come
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return Streamed(writer.digests, reading.digests(), shares)


@contextmanager
def _workers(n_cores: int) -> Iterator[ThreadPoolExecutor]:
    """The threads that merge and quantize.

    One more than cores: while one waits for the disk the others compute. Each multiplies on its
    own, so that BLAS must not start threads too.
    """
    blas = require("threadpoolctl", extra="export").threadpool_limits(1, user_api="blas")
    with blas, ThreadPoolExecutor(n_cores + 1, thread_name_prefix="quantize") as pool:
        yield pool


@dataclass(frozen=True)
class _Target:
    """One of the files: where it is, and where its tensors begin."""

    fd: int
    written: DirectFile
    header: bytes
    output_bytes: int


def _targets(plan: ExportPlan, files: Partials) -> dict[bool, _Target]:
    """By whether a tensor is of the projector."""

    def target(file: BinaryIO, made: ExportPlan | ProjectorPlan) -> _Target:
        opened = DirectFile(Path(file.name))
        return _Target(file.fileno(), opened, made.header, made.output_bytes)

    found = {False: target(files.model, plan)}
    if plan.projector is not None and files.projector is not None:
        found[True] = target(files.projector, plan.projector)
    return found


def _reader(targets: dict[bool, _Target]) -> ReadRows:
    readers = {side: row_reader(t.written, len(t.header)) for side, t in targets.items()}
    return lambda tensor, lo, hi: readers[tensor.in_projector](tensor, lo, hi)


class _Writer:
    """Puts packed rows in their places, digests each tensor and starts its proof."""

    def __init__(
        self,
        plan: ExportPlan,
        inputs: Inputs,
        targets: dict[bool, _Target],
        pool: ThreadPoolExecutor,
        flush: Flush,
    ) -> None:
        self.plan, self._inputs, self._targets = plan, inputs, targets
        self._pool, self._flush = pool, flush
        self._proof = Proof(plan, inputs, _reader(targets))
        self._proofs: dict[str, Future[AdapterShare | None]] = {}
        self.digests: dict[str, str] = {}
        self._digest = hashlib.sha256()
        self._sample: Sample | None = None

    def begin(self) -> None:
        """Empty the files and write their headers."""
        for target in self._targets.values():
            os.ftruncate(target.fd, 0)
            self._write(target.fd, 0, memoryview(target.header))

    def extend(self) -> None:
        """Give the files their full size, with holes."""
        for target in self._targets.values():
            os.ftruncate(target.fd, target.output_bytes)

    def add(self, rows: Rows, packed: Packed) -> str | None:
        """Write a block; the tensor's digest after its last one."""
        tensor = rows.tensor
        if self._sample is None:
            self._sample, self._digest = Sample(tensor, self._inputs), hashlib.sha256()
        octets = packed.data.cast("B")
        at = rows.lo * tensor.slot.type.row_bytes(tensor.slot.shape[0])
        self._write(self._targets[tensor.in_projector].fd, self._start(tensor) + at, octets)
        self._digest.update(octets)
        self._sample.take(at, octets)
        if rows.hi < tensor.n_rows:
            return None
        sample, self._sample = self._sample, None
        return self.keep(sample, self._digest.hexdigest())

    def keep(self, sample: Sample, digest: str) -> str:
        """A tensor is complete: remember its digest, prove it in the background."""
        name = sample.tensor.slot.name
        self.digests[name] = digest
        self._proofs[name] = self._pool.submit(self._proof.prove, sample)
        return digest

    def _write(self, fd: int, at: int, octets: memoryview) -> None:
        """Write at a position of a file."""
        write_at(fd, octets, at)
        self._flush.wrote(fd, len(octets))

    def shares(self) -> tuple[AdapterShare, ...]:
        """Wait for the proofs; the adapter's shares in the order of the file."""
        found = [self._proofs[t.slot.name].result() for t in self.plan.all_tensors]
        return tuple(share for share in found if share is not None)

    def check(self, tensor: TensorPlan, expected: str) -> Sample | None:
        """The sample of a tensor that an earlier run left, if its bytes have the digest."""
        start, n_bytes = self._start(tensor), tensor.slot.n_bytes
        written = self._targets[tensor.in_projector].written
        if start + n_bytes > written.stat().st_size:
            return None
        sample, digest, at = Sample(tensor, self._inputs), hashlib.sha256(), 0
        while at < n_bytes and (block := written.read(start + at, min(BLOCK, n_bytes - at))):
            digest.update(block)
            sample.take(at, block)
            at += len(block)
        return sample if digest.hexdigest() == expected else None

    def _start(self, tensor: TensorPlan) -> int:
        return len(self._targets[tensor.in_projector].header) + tensor.slot.offset


def _begin(writer: _Writer, todo: Schedule, journal: Journal, reading: InputPass) -> int:
    """Prepare the files; how many leading tensors of an earlier run are kept."""
    n_done = _resume(writer, todo, journal, reading)
    if not n_done:
        journal.start()
        writer.begin()
    writer.extend()
    return n_done


def _resume(writer: _Writer, todo: Schedule, journal: Journal, reading: InputPass) -> int:
    """How many leading tensors of an earlier run can be kept.

    Their bytes in the partial file must have the recorded digests, and the inputs, read again up
    to the last of them, the recorded mark. (They would be read for their digests in any case.)
    """
    recorded = journal.read()
    kept = []
    for (tensor, _), entry in zip(todo.tensors, recorded, strict=False):
        sample = None
        if entry.tensor == tensor.slot.name:
            sample = writer.check(tensor, entry.sha256)
        if sample is None:
            break
        kept.append((sample, entry.sha256))
    if not kept:
        return 0
    say(f"continuing after {len(kept)} of {len(todo.tensors)} tensors; reading their inputs again")
    mark = reading.catch_up(todo.tensors[len(kept) - 1][1])
    if mark != recorded[len(kept) - 1].inputs:
        say("the base is not that of the interrupted export: starting over")
        reading.restart()
        return 0
    for sample, digest in kept:
        writer.keep(sample, digest)
    return len(kept)


def _in_order(
    pool: ThreadPoolExecutor,
    plan: ExportPlan,
    inputs: Inputs,
    todo: Sequence[Work],
    reading: InputPass,
) -> Iterator[tuple[Rows, Packed]]:
    """Packed blocks of all tensors in the order of the work, a few of them under way."""

    def make(work: Work) -> Packed | None:
        if isinstance(work, Skim):
            reading.skim(work)
            return None
        if work.after is not None:
            reading.wait(work.after)
        return make_rows(work.tensor, inputs, plan, work.lo, work.hi)

    waiting: deque[tuple[Work, Future[Packed | None]]] = deque()
    ahead = 2 * plan.request.threads + 2
    for work in todo:
        waiting.append((work, pool.submit(make, work)))
        if len(waiting) > ahead:
            yield from _finished(*waiting.popleft())
    while waiting:
        yield from _finished(*waiting.popleft())


def _finished(work: Work, future: Future[Packed | None]) -> Iterator[tuple[Rows, Packed]]:
    packed = future.result()
    if isinstance(work, Rows) and packed is not None:
        yield work, packed
