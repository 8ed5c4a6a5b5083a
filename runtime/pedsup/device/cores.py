"""How many threads, on which cores: the big ones, as far as the system lets us see them.

Decoding waits for the slowest thread, so one thread on a little core slows all the others
(llama.cpp #21763). An unrooted Android app cannot list /sys/devices/system/cpu and may be
denied any file in it: cores are probed one by one and every file is optional.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

from pedsup.device.system_files import number_of, text_of, whole_number
from pedsup.messages import Message, message

Evidence = Literal["capacity", "model and frequency", "model", "frequency", "nothing"]
EVIDENCE: Final[dict[str, Message]] = {
    "capacity": message("capacity"),
    "model and frequency": message("model and frequency"),
    "model": message("model"),
    "frequency": message("frequency"),
    "nothing": message("no evidence"),
    "asked for": message("your choice"),
    "tuned": message("tuning"),
}
"""How a number of threads was determined, in words."""

BIG_SHARE: Final = 0.5
"""A core with at least this share of the best core's capacity counts as big."""
BIG_SHARE_BY_MODEL: Final = 0.6
"""The same where only core models are known: the clocks, which widen the gap, are missing."""
UNKNOWN_PHONE_THREADS: Final = 4
MAX_CPUS: Final = 4096
"""A list with a higher number is not a list of cores."""
ARM: Final = 0x41


class CoreModel(NamedTuple):
    """A core design: its name, and rough work per clock relative to a Cortex-A53."""

    name: str
    work: float


# Arm's core numbers (MIDR part); the work per clock is from the capacity-dmips-mhz values of the
# devices' trees in Linux and only has to tell big from little. Qualcomm's Kryo cores of these
# phones report their own implementer (0x51).
CORE_MODELS: Final[dict[tuple[int, int], CoreModel]] = {
    (ARM, 0xD03): CoreModel("Cortex-A53", 1.0),
    (ARM, 0xD05): CoreModel("Cortex-A55", 1.1),
    (ARM, 0xD46): CoreModel("Cortex-A510", 1.2),
    (ARM, 0xD80): CoreModel("Cortex-A520", 1.3),
    (ARM, 0xD08): CoreModel("Cortex-A72", 1.8),
    (ARM, 0xD09): CoreModel("Cortex-A73", 1.8),
    (ARM, 0xD0A): CoreModel("Cortex-A75", 2.2),
    (ARM, 0xD0B): CoreModel("Cortex-A76", 2.7),
    (ARM, 0xD0D): CoreModel("Cortex-A77", 2.9),
    (ARM, 0xD41): CoreModel("Cortex-A78", 3.1),
    (ARM, 0xD47): CoreModel("Cortex-A710", 3.2),
    (ARM, 0xD4D): CoreModel("Cortex-A715", 3.3),
    (ARM, 0xD81): CoreModel("Cortex-A720", 3.4),
    (ARM, 0xD44): CoreModel("Cortex-X1", 3.8),
    (ARM, 0xD48): CoreModel("Cortex-X2", 3.9),
    (ARM, 0xD4E): CoreModel("Cortex-X3", 4.1),
    (ARM, 0xD82): CoreModel("Cortex-X4", 4.3),
    (0x51, 0x800): CoreModel("Kryo 260/280 Gold (A73)", 1.8),
    (0x51, 0x801): CoreModel("Kryo 260/280 Silver (A53)", 1.0),
    (0x51, 0x802): CoreModel("Kryo 385 Gold (A75)", 2.2),
    (0x51, 0x803): CoreModel("Kryo 385 Silver (A55)", 1.1),
    (0x51, 0x804): CoreModel("Kryo 485 Gold (A76)", 2.7),
    (0x51, 0x805): CoreModel("Kryo 485 Silver (A55)", 1.1),
}


@dataclass(frozen=True)
class Core:
    """What could be read about one core; None for what could not."""

    index: int
    capacity: int | None = None
    """Linux' cpu_capacity: 1024 is the best core of the chip."""
    max_khz: int | None = None
    part: tuple[int, int] | None = None
    """Implementer and part number."""
    siblings: frozenset[int] = frozenset()
    """The hardware threads of the same core."""


@dataclass(frozen=True)
class ThreadPlan:
    """Threads for llama.cpp and the cores they stay on (None: the mask is left as it is)."""

    n_threads: int
    cpus: frozenset[int] | None
    evidence: Evidence | Literal["asked for", "tuned"]

    @property
    def count(self) -> Message:
        if self.n_threads == 1:
            return message("1 thread")
        return message("{n} threads", n=self.n_threads)

    @property
    def by(self) -> Message:
        return EVIDENCE[self.evidence]


def allowed_cpus() -> frozenset[int]:
    """The cores this process may use; `os.cpu_count` ignores cpusets."""
    return frozenset(os.sched_getaffinity(0))


def read_cores(allowed: frozenset[int], root: Path = Path("/")) -> tuple[Core, ...]:
    """Probe the allowed cores by name; a missing or denied file leaves its field None."""
    parts = _parts(root)
    cores = []
    for index in sorted(allowed):
        folder = root / f"sys/devices/system/cpu/cpu{index}"
        cores.append(
            Core(
                index,
                capacity=number_of(folder / "cpu_capacity"),
                max_khz=number_of(folder / "cpufreq/cpuinfo_max_freq"),
                part=parts.get(index),
                siblings=_cpu_list(folder / "topology/thread_siblings_list"),
            )
        )
    return tuple(cores)


def plan_threads(cores: tuple[Core, ...], *, machine: str | None = None) -> ThreadPlan:
    """One thread per big core, kept on the big cores where there are little ones too.

    Args:
        cores: the allowed cores, from `read_cores`.
        machine: `platform.machine()`, to tell a phone from a desktop where nothing is readable.
    """
    arm = (machine or platform.machine()).startswith(("aarch64", "arm"))
    evidence, scores = _scores(cores, arm)
    if evidence == "nothing":
        n = len(_physical(cores))
        return ThreadPlan(min(n, UNKNOWN_PHONE_THREADS) if arm else n, None, evidence)
    share = BIG_SHARE
    if evidence == "model":
        share = BIG_SHARE_BY_MODEL
    elif evidence == "frequency" and arm:
        share = 1.0  # 2.0 GHz does not make a little core a big one of 2.2: take the top clock only
    best = max(scores.values())
    big = tuple(core for core in cores if scores[core.index] >= share * best)
    # A mask is set only where it keeps threads off little cores.
    cpus = frozenset(core.index for core in big) if len(big) < len(cores) else None
    return ThreadPlan(len(_physical(big)), cpus, evidence)


def cpu_features(root: Path = Path("/")) -> frozenset[str]:
    """Feature flags of the processor as /proc/cpuinfo names them (x86 'flags', ARM 'Features').

    Where cores differ, only what all of them have.
    """
    sets = [
        frozenset(value.split())
        for name, value in cpuinfo(root)
        if name.lower() in ("flags", "features")
    ]
    return frozenset.intersection(*sets) if sets else frozenset()


def _scores(cores: tuple[Core, ...], arm: bool) -> tuple[Evidence, dict[int, float]]:
    """A number per core that grows with its speed, from the best evidence all cores have."""
    known = {c.index: CORE_MODELS.get(c.part) if c.part else None for c in cores}
    capacity = {c.index: float(c.capacity) for c in cores if c.capacity}
    clocks = {c.index: float(c.max_khz) for c in cores if c.max_khz}
    models = {i: model.work for i, model in known.items() if model is not None}
    complete = len(cores)
    if len(capacity) == complete:
        return "capacity", capacity
    if len(models) == len(clocks) == complete:
        return "model and frequency", {i: models[i] * clocks[i] for i in models}
    if len(models) == complete:
        return "model", models
    if len(clocks) == complete:
        return "frequency", clocks
    return "nothing", {}


def _physical(cores: tuple[Core, ...]) -> set[frozenset[int]]:
    """Real cores: hardware threads of one core count once (they share its arithmetic units)."""
    return {core.siblings or frozenset({core.index}) for core in cores}


def cpuinfo(root: Path) -> list[tuple[str, str]]:
    """Name and value of each line of /proc/cpuinfo."""
    lines = (line.partition(":") for line in text_of(root / "proc/cpuinfo").splitlines())
    return [(name.strip(), value.strip()) for name, _, value in lines]


def _parts(root: Path) -> dict[int, tuple[int, int]]:
    """Implementer and part per core; /proc/cpuinfo leaves out cores that are asleep."""
    parts: dict[int, tuple[int, int]] = {}
    index, implementer = -1, 0
    for name, value in cpuinfo(root):
        try:
            if name == "processor":
                index = int(value)
            elif name == "CPU implementer":
                implementer = int(value, 16)
            elif name == "CPU part" and index >= 0:
                parts[index] = implementer, int(value, 16)
        except ValueError:
            continue
    return parts


def _cpu_list(path: Path) -> frozenset[int]:
    """A kernel list such as '0-1,4'."""
    cpus: set[int] = set()
    for span in text_of(path).strip().split(","):
        low, _, high = span.partition("-")
        first, last = whole_number(low), whole_number(high or low)
        if first is not None and last is not None and last < MAX_CPUS:
            cpus.update(range(first, last + 1))
    return frozenset(cpus)
