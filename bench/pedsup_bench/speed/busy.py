"""Whether other programs used the processor during the measurement."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final, TypedDict

from pedsup.device.cores import allowed_cpus
from pedsup_bench.speed.device import load_average

BUSY_CORES: Final = 0.25
"""How many cores others may use before a warning."""
BUSY_LOAD: Final = 0.5
"""Load average before the run, where the kernel does not show the processors' time."""


class Busy(TypedDict):
    """What else ran; load averages over one minute, `others` in cores, None where not shown.

    The load afterwards holds the measurement itself.
    """

    cores: int
    load_before: float | None
    load_after: float | None
    others: float | None
    busy: bool


@dataclass(frozen=True)
class Moment:
    """Seconds of processor time until now."""

    at: float
    load: float | None
    busy_s: float | None
    """Of the processors that this process may use, by all programs."""
    own_s: float
    """Of this process and its ended children."""

    @classmethod
    def now(cls, root: Path = Path("/")) -> Moment:
        """This one."""
        uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        own = sum(use.ru_utime + use.ru_stime for use in uses)
        return cls(monotonic(), load_average(), _busy_seconds(root / "proc/stat"), own)


def between(before: Moment, after: Moment) -> Busy:
    """What other programs did in between."""
    others = None
    if before.busy_s is not None and after.busy_s is not None and after.at > before.at:
        used = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
        others = max(0.0, used / (after.at - before.at))
    if others is None:
        busy = before.load is not None and before.load >= BUSY_LOAD
    else:
        busy = others >= BUSY_CORES
    return {
        "cores": len(allowed_cpus()),
        "load_before": before.load,
        "load_after": after.load,
        "others": others,
        "busy": busy,
    }


def warning_before(moment: Moment) -> str | None:
    """The warning before a run on a busy machine."""
    if moment.load is None or moment.load < BUSY_LOAD:
        return None
    return (
        f"warning: the machine is busy (load {moment.load:.1f} on {len(allowed_cpus())} cores): "
        "figures will be slower and vary more; close other programs, or measure later"
    )


def told(found: Busy) -> str:
    """One sentence for the table and the page."""
    loads = " to ".join(
        "unknown" if load is None else f"{load:.1f}"
        for load in (found["load_before"], found["load_after"])
    )
    others = found["others"]
    used = "" if others is None else f"; other programs used {others:.1f} of {found['cores']} cores"
    start = "THE MACHINE WAS BUSY" if found["busy"] else "the machine was quiet"
    return f"{start}: load {loads} (the later one holds this measurement){used}"


def _busy_seconds(path: Path) -> float | None:
    """From /proc/stat (proc(5)), which Android hides: all but idle and waiting, stolen time too."""
    try:
        lines = path.read_text("ascii").splitlines()
    except (OSError, ValueError):
        return None
    wanted = {f"cpu{index}" for index in allowed_cpus()}
    rows = [line.split() for line in lines]
    # user nice system idle iowait irq softirq steal; guest time is in user already.
    found = [
        sum(int(row[i]) for i in (1, 2, 3, 6, 7, 8))
        for row in rows
        if row and row[0] in wanted and len(row) > 8
    ]
    return sum(found) / os.sysconf("SC_CLK_TCK") if found else None
