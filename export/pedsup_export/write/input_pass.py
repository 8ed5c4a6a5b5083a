"""One pass over the checkpoint's files: what is read when, and the digest of the very bytes used.

The shards are read once, in order, from the first byte to the last. What is in an output tensor
is read by the thread that merges it, the rest by a job of its own; each block goes into the
SHA-256 of its file before it is used. So the digests in the manifest are of the bytes that were
merged, and they cost no second reading.

A *place* is a shard's number and a position in it. A tensor of the output has the place where
the last byte it needs has been read. The *mark* of a place is a digest of everything before it:
a journal keeps it, and a resumed export continues only if reading the inputs again gives the
same mark.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Final

from pedsup_export.plan.export_plan import Inputs, TensorPlan
from pedsup_export.plan.rows import blocks
from pedsup_export.source.nf4 import Bnb4bitSource
from pedsup_export.source.safetensors_file import SafetensorsFile
from pedsup_export.source.safetensors_header import TensorEntry
from pedsup_export.source.tensor_source import PlainSource, ResizedSource, TensorSource
from pedsup_export.source.turnstile import Turnstile

Place = tuple[int, int]
BEFORE: Final = (-1, 0)
"""The place before the first shard."""
SKIM: Final = 4 << 20
"""Bytes read at once that no tensor needs."""


@dataclass(frozen=True)
class Rows:
    """Rows `lo` to `hi` of an output tensor are to be made."""

    tensor: TensorPlan
    lo: int
    hi: int
    after: Place | None = None
    """Their bytes are digested by others, up to this place; None: they are the next to digest."""


@dataclass(frozen=True)
class Skim:
    """Bytes that go into the digest only: unused tensors, or parts that are read another way."""

    shard: int
    begin: int
    end: int


Work = Rows | Skim


@dataclass(frozen=True)
class Schedule:
    """All work in the order of the input, and the tensors in the order of their completion."""

    work: tuple[Work, ...]
    tensors: tuple[tuple[TensorPlan, Place], ...]

    @cached_property
    def places(self) -> dict[str, Place]:
        """Where each tensor is complete, by its name."""
        return {tensor.slot.name: place for tensor, place in self.tensors}

    def after(self, n_tensors: int) -> tuple[Work, ...]:
        """What is left when the first `n_tensors` are complete."""
        if not n_tensors:
            return self.work
        last = self.tensors[n_tensors - 1][0]
        ends = (n for n, w in enumerate(self.work) if isinstance(w, Rows) and w.tensor is last)
        return self.work[max(ends) + 1 :]


def schedule(plan_tensors: Sequence[TensorPlan], inputs: Inputs) -> Schedule:
    """Bring the output's tensors into the order in which one pass over the shards meets them."""
    shards = inputs.checkpoint.shards
    entries = {
        entry.name: (number, entry)
        for number, shard in enumerate(shards)
        for entry in shard.tensors.values()
    }
    direct: dict[str, TensorPlan] = {}
    """By the entry whose bytes its rows are; one for each entry."""
    later: dict[Place, list[TensorPlan]] = defaultdict(list)
    """By the place after which the rest can be made."""
    for tensor in plan_tensors:
        name = tensor.origin.source
        stored = stored_names(inputs.checkpoint.tensors[name]) if name is not None else ()
        if name is not None and stored[0] not in direct and _reads_in_order(name, inputs):
            direct[stored[0]] = tensor
        else:
            later[_place(stored, entries)].append(tensor)
    work: list[Work] = []
    order: list[tuple[TensorPlan, Place]] = []

    def make(tensor: TensorPlan, place: Place, after: Place | None) -> None:
        work.extend(Rows(tensor, lo, hi, after) for lo, hi in blocks(tensor))
        order.append((tensor, place))

    for tensor in later.pop(BEFORE, ()):
        make(tensor, BEFORE, BEFORE)
    for number, shard in enumerate(shards):
        for entry in shard.tensors.values():
            begin, place = entry.begin, (number, entry.end)
            if entry.name in direct:
                begin += _bytes_read(direct[entry.name], entry)
                make(direct[entry.name], (number, begin), None)
            work.extend(_skims(number, begin, entry.end))
            for tensor in later.pop(place, ()):
                make(tensor, place, place)
    return Schedule(tuple(work), tuple(order))


def _reads_in_order(name: str, inputs: Inputs) -> bool:
    """Whether a tensor's rows are the bytes of its own entry, read from the file block by block."""
    change = inputs.matches.matched.get(name) if inputs.matches else None
    source = inputs.checkpoint.tensors[name]
    return (
        isinstance(source, PlainSource)
        and source.entry.n_bytes > 0
        and (change is None or change.replacement is None)
    )


def _bytes_read(tensor: TensorPlan, entry: TensorEntry) -> int:
    """Bytes of the entry up to the last row that the tensor has."""
    kept = tensor.origin.kept_rows
    return entry.n_bytes if kept is None else entry.n_bytes // entry.n_rows * (int(kept[-1]) + 1)


def stored_names(source: TensorSource) -> tuple[str, ...]:
    """The entries of the shards that hold a tensor; a tied head may have another name there."""
    if isinstance(source, ResizedSource):
        return stored_names(source.source)
    if isinstance(source, Bnb4bitSource):
        return source.stored_names
    return (source.entry.name if isinstance(source, PlainSource) else source.name,)


def _place(stored: Sequence[str], entries: dict[str, tuple[int, TensorEntry]]) -> Place:
    """Where all bytes of a tensor have been read; before everything for a computed one."""
    found = [entries[part] for part in stored]
    return max(((number, entry.end) for number, entry in found), default=BEFORE)


def _skims(shard: int, begin: int, end: int) -> Iterator[Skim]:
    for at in range(begin, end, SKIM):
        yield Skim(shard, at, min(at + SKIM, end))


class InputPass:
    """The running digests of all shards. Use it as a context: the shards then report to it.

    Args:
        shards: in the order in which they will be read.
        wanted: the places whose marks will be asked for.
    """

    def __init__(self, shards: Sequence[SafetensorsFile], wanted: Sequence[Place]) -> None:
        self._shards, self._wanted = shards, set(wanted)
        self.restart()

    def restart(self) -> None:
        """Begin again with the first byte. The header's bytes are those that were understood."""
        self._digests = [hashlib.sha256(shard.header) for shard in self._shards]
        self._turn = Turnstile(self._next(0, len(self._shards[0].header)))
        self._marks = {BEFORE: self._mark()}

    def __enter__(self) -> InputPass:
        for number, shard in enumerate(self._shards):
            shard.on_read = partial(self._take, number)
        return self

    def __exit__(self, *_: object) -> None:
        for shard in self._shards:
            shard.on_read = lambda *_: None

    def skim(self, work: Skim) -> None:
        """Read bytes for their digest only."""
        self._shards[work.shard].read(work.begin, work.end)

    def wait(self, place: Place) -> None:
        """Wait until everything before a place has been digested."""
        self._turn.enter(place)

    def mark(self, place: Place) -> str:
        """The mark of a wanted place that has been passed."""
        return self._marks[place]

    def catch_up(self, place: Place) -> str:
        """Read everything before `place` for its digest, on this thread; the place's mark."""
        while (at := self._turn.at) < place and at[0] < len(self._shards):
            number, begin = at
            end = place[1] if number == place[0] else self._shards[number].size
            n_bytes = min(SKIM, end - begin)
            self._shards[number].read(begin, begin + n_bytes)
        return self._marks[place]

    def stop(self) -> None:
        """The export was given up: threads that wait for their turn end."""
        self._turn.stop()

    def digests(self) -> dict[str, str]:
        """Hex SHA-256 of every shard, by file name, when all have been read.

        Raises:
            MismatchError: a shard was changed while it was read.
        """
        if self._turn.at != (len(self._shards), 0):
            raise AssertionError(f"the inputs were read to {self._turn.at} only")
        found = {}
        for shard, digest in zip(self._shards, self._digests, strict=True):
            found[shard.path.name] = digest.hexdigest()
            shard.require_unchanged(digest.hexdigest())
        return found

    def _take(self, number: int, begin: int, octets: memoryview) -> None:
        """Digest what was read when its turn comes; nothing if it was digested before."""
        if not octets or not self._turn.enter((number, begin)):
            return
        self._digests[number].update(octets)
        place = number, begin + len(octets)
        if place in self._wanted:
            self._marks[place] = self._mark()
        self._turn.leave(self._next(*place))

    def _next(self, number: int, at: int) -> Place:
        """The next place with bytes to read."""
        while number < len(self._shards) and at == self._shards[number].size:
            number += 1
            at = len(self._shards[number].header) if number < len(self._shards) else 0
        return number, at

    def _mark(self) -> str:
        states = "\n".join(digest.copy().hexdigest() for digest in self._digests)
        return hashlib.sha256(states.encode()).hexdigest()
