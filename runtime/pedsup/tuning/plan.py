"""What `tune` will try, decided before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypedDict

from pedsup.device.cores import Core, ThreadPlan
from pedsup.engine.api import EngineConfig
from pedsup.memory import Room
from pedsup.messages import Message, joined, message
from pedsup.tuning.store import as_options

Metric = Literal["decode", "prompt", "turn"]
TURN_PROMPT: Final = 256
TURN_DECODE: Final = 256
"""Tokens of the turn that a choice is judged by: a question is read, then answered."""
MAX_PROMPT: Final = 512
TUNE_CTX: Final = 1024
UBATCHES: Final = (512, 256, 128, 64)
SHARES: Final = {
    "threads": 0.45, "pin": 0.1, "extra_buffers": 0.2, "ubatch": 0.15, "mmap": 0.1,
}  # fmt: skip
"""Weights of the stages in the time. What a stage does not need goes to the later ones."""


@dataclass(frozen=True)
class Speed:
    """Tokens per second of one measurement."""

    prompt: float
    decode: float

    def by(self, metric: Metric) -> float:
        """The speed that a stage compares; 'turn' in turns per second."""
        if metric == "prompt":
            return self.prompt
        if metric == "decode":
            return self.decode
        return 1 / (TURN_PROMPT / self.prompt + TURN_DECODE / self.decode)


@dataclass(frozen=True)
class Failure:
    """A measurement that did not come about: the child died, or took too long."""

    reason: Message


@dataclass(frozen=True)
class Candidate:
    """One way to run the model."""

    threads: int
    threads_batch: int
    pin: bool
    """Threads kept on the big cores."""
    batch: int
    ubatch: int
    extra_buffers: bool
    mmap: bool

    def settings(self) -> dict[str, object]:
        """As settings of `pedsup-run`."""
        return {
            "threads": self.threads,
            "threads_batch": self.threads_batch,
            "pin": "on" if self.pin else "off",
            "batch": self.batch,
            "ubatch": self.ubatch,
            "extra_buffers": "on" if self.extra_buffers else "off",
            "mmap": self.mmap,
        }

    def label(self) -> Message:
        """For tables, e.g. '4 threads, big cores, ubatch 512, repack, mmap'."""
        threads = (
            message("1 thread") if self.threads == 1 else message("{n} threads", n=self.threads)
        )
        if self.threads_batch != self.threads:
            threads = message("{n} threads (prompts {m})", n=self.threads, m=self.threads_batch)
        parts = [
            threads,
            message("big cores") if self.pin else message("any core"),
            f"ubatch {self.ubatch}",
            message("repack") if self.extra_buffers else message("no repack"),
            "mmap" if self.mmap else message("no mmap"),
        ]
        return joined(", ", parts)


class Change(TypedDict, total=False):
    """The fields of `Candidate` in which an alternative differs."""

    threads: int
    threads_batch: int
    pin: bool
    ubatch: int
    extra_buffers: bool
    mmap: bool


@dataclass(frozen=True)
class Stage:
    """One question: which of these is best, all else as found so far."""

    name: str
    """A key of `SHARES`."""
    metric: Metric
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class TunePlan:
    """The search. `skipped` says what is not tried, and why."""

    base: Candidate
    n_big: int
    cpus: frozenset[int] | None
    """The big cores, where there are little ones too."""
    seconds: float
    stages: tuple[Stage, ...]
    skipped: tuple[tuple[str, Message], ...]

    def lines(self) -> list[Message]:
        lines = [
            message("start: {label}", label=self.base.label()),
            message("time: {s} s", s=f"{self.seconds:.0f}"),
        ]
        for stage in self.stages:
            tries = "; ".join(map(as_options, stage.changes))
            lines.append(_METRICS[stage.metric].filled(stage=STAGES[stage.name], tries=tries))
        lines += [
            message("{stage}: not tried, {reason}", stage=STAGES[name], reason=reason)
            for name, reason in self.skipped
        ]
        return lines


STAGES: Final[dict[str, Message]] = {
    "threads": message("number of threads"),
    "pin": message("threads kept on the big cores"),
    "extra_buffers": message("repacked weights"),
    "ubatch": message("prompt tokens per step"),
    "mmap": message("mapping of the file"),
}
"""The stages in words."""
_METRICS: Final[dict[Metric, Message]] = {
    "turn": message("{stage} (by the speed of a turn): {tries}"),
    "prompt": message("{stage} (by prompt speed): {tries}"),
    "decode": message("{stage} (by decode speed): {tries}"),
}


def thread_counts(n_big: int, n_all: int) -> tuple[int, ...]:
    """Candidate numbers around the number of big cores, which is likely the best."""
    counts = {n_big // 2, n_big - 1, n_big, n_big + 1, n_big + 2, (n_big + n_all) // 2, n_all}
    return tuple(sorted(n for n in counts if 1 <= n <= n_all))


def _offers(
    base: EngineConfig, start: Candidate, counts: Sequence[int], room: Room
) -> list[tuple[Stage, Message | None]]:
    others = tuple(
        Change(threads=n, threads_batch=n, pin=start.pin and n <= start.threads)
        for n in counts
        if n != start.threads
    )
    unpinned: tuple[Change, ...] = ({"pin": False},) if start.pin else ()
    buffers, mmap = not base.extra_buffers, not base.use_mmap
    small = replace(base, n_ctx=TUNE_CTX)  # measuring needs no more
    toggled: tuple[Change, ...] = ({"extra_buffers": buffers},)
    mapped: tuple[Change, ...] = ({"mmap": mmap},)
    smaller = tuple(Change(ubatch=n) for n in UBATCHES if n != start.ubatch and n <= start.batch)
    return [
        (Stage("threads", "turn", others), None if others else message("there is one core")),
        (
            Stage("pin", "turn", unpinned),
            None if unpinned else message("there are no little cores to avoid"),
        ),
        (
            Stage("extra_buffers", "turn", toggled),
            None
            if room.fits(replace(small, extra_buffers=buffers))
            else message("the repacked copy of the weights would not fit"),
        ),
        (Stage("ubatch", "prompt", smaller), None),
        (
            Stage("mmap", "turn", mapped),
            None
            if room.fits(replace(small, use_mmap=mmap))
            else message("the weights would not fit into the program's own memory"),
        ),
    ]


def make_plan(
    base: EngineConfig,
    threads: ThreadPlan,
    cores: tuple[Core, ...],
    room: Room,
    seconds: float,
) -> TunePlan:
    """The search for a device and a model.

    Args:
        base: what would run without tuning, `threads` with it planned for `cores`.
        room: says which configurations fit.
    """
    start = Candidate(
        threads=threads.n_threads,
        threads_batch=threads.n_threads,
        pin=threads.cpus is not None,
        batch=base.n_batch,
        ubatch=base.n_ubatch,
        extra_buffers=base.extra_buffers,
        mmap=base.use_mmap,
    )
    offers = _offers(base, start, thread_counts(threads.n_threads, len(cores)), room)
    stages = tuple(stage for stage, why_not in offers if why_not is None)
    skipped = tuple((stage.name, why) for stage, why in offers if why is not None)
    return TunePlan(start, threads.n_threads, threads.cpus, seconds, stages, skipped)
