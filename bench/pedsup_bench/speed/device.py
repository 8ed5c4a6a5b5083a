"""What the machine is, as far as it can be read; every file may be missing or denied."""

from __future__ import annotations

import os
import platform
import resource
import shutil
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final, TypedDict

from pedsup.child.bounded import run_bounded
from pedsup.device.available import available_memory, total_memory
from pedsup.device.cores import allowed_cpus, cpu_features, read_cores

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


MAX_ZONES: Final = 64
MAX_SUPPLIES: Final = ("battery", "BAT0", "BAT1", "bms")
_PROPERTIES: Final = (
    "ro.soc.model",
    "ro.board.platform",
    "ro.product.model",
    "ro.build.version.release",
)
_NAMED_FEATURES: Final = (
    "asimd", "asimddp", "i8mm", "sve", "sve2", "bf16", "fphp", "avx2", "fma", "f16c", "avx512f",
    "avx512_vnni", "avx_vnni", "amx_tile", "amx_int8",
)  # fmt: skip


class Core(TypedDict):
    """A processor core; `part` as 'implementer:part' in hex."""

    index: int
    capacity: int | None
    max_khz: int | None
    part: str | None


class Device(TypedDict):
    """This machine; None for what cannot be read. Memory in bytes."""

    soc: str | None
    machine: str
    kernel: str
    android: dict[str, str] | None
    python: str
    cores: list[Core]
    features: list[str]
    memory_total: int | None
    memory_available: int | None
    load_average: float | None


class Battery(TypedDict):
    """Charge in percent, state and temperature."""

    percent: int
    status: str | None
    celsius: float | None


def describe(root: Path = Path("/")) -> Device:
    """Processor, cores, features, memory, kernel; what cannot be read is null."""
    cores = read_cores(allowed_cpus(), root)
    features = cpu_features(root)
    free = available_memory(root)
    return {
        "soc": _soc(root),
        "machine": platform.machine(),
        "kernel": f"{platform.system()} {platform.release()}",
        "android": _properties(),
        "python": platform.python_version(),
        "cores": [
            {"index": c.index, "capacity": c.capacity, "max_khz": c.max_khz,
             "part": f"{c.part[0]:#x}:{c.part[1]:#x}" if c.part else None}
            for c in cores
        ],
        "features": [name for name in _NAMED_FEATURES if name in features],
        "memory_total": total_memory(root),
        "memory_available": free.bytes if free else None,
        "load_average": load_average(),
    }  # fmt: skip


def temperatures(root: Path = Path("/")) -> dict[str, float]:
    """Degrees Celsius by thermal zone, of the zones that can be read."""
    found = {}
    for index in range(MAX_ZONES):
        folder = root / f"sys/class/thermal/thermal_zone{index}"
        text = _text(folder / "temp").strip()
        if not text.lstrip("-").isdigit():
            continue
        # Most drivers give thousandths of a degree, some old ones degrees.
        value = int(text) / 1000 if abs(int(text)) >= 1000 else float(text)
        if -40 < value < 150:
            found[_text(folder / "type").strip() or f"zone{index}"] = value
    return found


def battery(root: Path = Path("/")) -> Battery | None:
    """Charge in percent, state and temperature, where the system shows them."""
    for name in MAX_SUPPLIES:
        folder = root / "sys/class/power_supply" / name
        capacity = _text(folder / "capacity").strip()
        if capacity.isdigit():
            tenths = _text(folder / "temp").strip().lstrip("-")
            return {
                "percent": int(capacity),
                "status": _text(folder / "status").strip() or None,
                "celsius": int(tenths) / 10 if tenths.isdigit() else None,
            }
    return None


def _soc(root: Path) -> str | None:
    for line in _text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() in ("model name", "hardware") and value.strip():
            return value.strip()
    names = _text(root / "proc/device-tree/model") or _text(root / "sys/devices/soc0/machine")
    return names.strip("\0\n ") or None


def _properties() -> dict[str, str] | None:
    program = shutil.which("getprop")
    if program is None:
        return None
    found = {}
    for name in _PROPERTIES:
        ran = run_bounded([program, name], 2.0)
        if ran is not None and ran.text.strip():
            found[name] = ran.text.strip()
    return found


def load_average() -> float | None:
    """Over one minute."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
