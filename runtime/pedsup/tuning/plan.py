"""What `tune` will try, decided before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, TypedDict

from pedsup.device.cores import Core, ThreadPlan
from pedsup.engine.api import EngineConfig
from pedsup.gguf_file import GGUFHeader
from pedsup.memory import Available, Host, estimate
from pedsup.memory.fit import assess

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

    def label(self) -> str:
        """For tables, e.g. '4 threads, big cores, ubatch 512, repack, mmap'."""
        threads = f"{self.threads}"
        if self.threads_batch != self.threads:
            threads += f" (prompts {self.threads_batch})"
        parts = [
            f"{threads} threads",
            "big cores" if self.pin else "any core",
            f"ubatch {self.ubatch}",
            "repack" if self.extra_buffers else "no repack",
            "mmap" if self.mmap else "no mmap",
        ]
        return ", ".join(parts)


class Change(TypedDict, total=False):
    """Fields of `Candidate` that an alternative has otherwise."""

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
    skipped: tuple[tuple[str, str], ...]

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"start: {self.base.label()}", f"time: {self.seconds:.0f} s"]
        for stage in self.stages:
            tries = "; ".join(
                ", ".join(f"{name} {value}" for name, value in change.items())
                for change in stage.changes
            )
            lines.append(f"{stage.name} (by {stage.metric} speed): {tries}")
        lines += [f"{name}: not tried, {reason}" for name, reason in self.skipped]
        return lines


def thread_counts(n_big: int, n_all: int) -> tuple[int, ...]:
    """Coarse on both sides of the big cores, which are the likely best."""
    counts = {n_big // 2, n_big - 1, n_big, n_big + 1, n_big + 2, (n_big + n_all) // 2, n_all}
    return tuple(sorted(n for n in counts if 1 <= n <= n_all))


def make_plan(
    base: EngineConfig,
    threads: ThreadPlan,
    cores: tuple[Core, ...],
    memory: MemoryQuestion,
    seconds: float,
) -> TunePlan:
    """The search for a device and a model.

    Args:
        base: what would run without tuning, `threads` with it planned for `cores`.
        memory: asks whether a configuration fits.
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
    stages, skipped = [], []
    counts = thread_counts(threads.n_threads, len(cores))
    others = tuple(
        Change(threads=n, threads_batch=n, pin=start.pin and n <= threads.n_threads)
        for n in counts
        if n != threads.n_threads
    )
    if others:
        stages.append(Stage("threads", "turn", others))
    else:
        skipped.append(("threads", "there is one core"))
    if start.pin:
        stages.append(Stage("pin", "turn", ({"pin": False},)))
    else:
        skipped.append(("pin", "there are no little cores to keep off"))
    toggled = replace(base, extra_buffers=not base.extra_buffers)
    if memory.fits(toggled):
        stages.append(Stage("extra_buffers", "turn", ({"extra_buffers": not base.extra_buffers},)))
    else:
        skipped.append(("extra_buffers", "the repacked copy of the weights would not fit"))
    smaller = tuple(Change(ubatch=n) for n in UBATCHES if n != start.ubatch and n <= start.batch)
    stages.append(Stage("ubatch", "prompt", smaller))
    if memory.fits(replace(base, use_mmap=not base.use_mmap)):
        stages.append(Stage("mmap", "turn", ({"mmap": not base.use_mmap},)))
    else:
        skipped.append(("mmap", "the weights would not fit as memory of the program's own"))
    return TunePlan(start, threads.n_threads, threads.cpus, seconds, tuple(stages), tuple(skipped))


@dataclass(frozen=True)
class MemoryQuestion:
    """Whether a configuration of a model fits into what is available."""

    header: GGUFHeader
    host: Host
    available: Available | None

    def fits(self, config: EngineConfig) -> bool:
        """Whole, at the small context that measurements need."""
        need = estimate(self.header, replace(config, n_ctx=TUNE_CTX), self.host)
        return assess(need, self.available).verdict == "fits"
