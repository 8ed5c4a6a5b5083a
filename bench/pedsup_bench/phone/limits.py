"""Memory, CPU and read-rate limits of control groups, so that this machine has a phone's means.

Version 1 has one folder tree per controller (memory, cpu, blkio), version 2 one for all. Groups are
made below the one this process is in, where the system allows it; each limit that cannot be set
is reported in words. The speed of a core is not imitated: only how many there are.

Files: kernel documentation admin-guide/cgroup-v1/{memory,blkio-controller}.rst and
admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from pedsup.phones.profiles import Phone
from pedsup_bench.speed.plan import SpeedPlan
from pedsup_bench.speed.result import Limits

PERIOD_US: Final = 100_000
CGROUP_ROOT: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Wanted:
    """Limits to set; None leaves one alone. Bytes, cores, bytes per second."""

    memory: int | None = None
    cpus: float | None = None
    read_rate: int | None = None
    device: str | None = None
    """major:minor of the disk that `read_rate` is for."""

    @property
    def asked(self) -> dict[str, float]:
        """The limits that are set, by name."""
        limits = {"memory": self.memory, "cpus": self.cpus, "read_rate": self.read_rate}
        return {name: limit for name, limit in limits.items() if limit is not None}


@dataclass(frozen=True)
class Limited:
    """What was set, what was not, and why."""

    version: Literal[0, 1, 2]
    """0: no control groups here."""
    set: dict[str, float]
    refused: dict[str, str]
    procs: tuple[str, ...]
    """Files a process writes its id to, to be limited."""
    phone: str | None = None

    def apply(self, plan: SpeedPlan) -> SpeedPlan:
        """The plan with its measured processes in the group."""
        return replace(plan, cgroups=self.procs)

    @property
    def text(self) -> str:
        """One sentence for people."""
        done = ", ".join(f"{name} {value:g}" for name, value in self.set.items()) or "none"
        lines = f"set here: {done}"
        if self.refused:
            lines += "; NOT set: " + "; ".join(f"{n} ({why})" for n, why in self.refused.items())
        return lines + "; the speed of a core is this machine's"

    def to_json(self) -> Limits:
        return {
            "version": self.version,
            "set": self.set,
            "refused": self.refused,
            "procs": list(self.procs),
            "phone": self.phone,
            "text": self.text,
        }


@contextmanager
def limited_as(phone: Phone, model: Path) -> Iterator[Limited]:
    """Limits of a phone's profile around the block."""
    wanted = Wanted(
        memory=phone.available_bytes,
        cpus=float(phone.big_cores),
        read_rate=int(phone.storage_bytes_per_s),
        device=disk_of(model),
    )
    with limited(wanted) as group:
        yield replace(group, phone=phone.id)


@contextmanager
def limited(wanted: Wanted, root: Path = CGROUP_ROOT) -> Iterator[Limited]:
    """Make a group with the limits, and remove it afterwards."""
    version = cgroup_version(root)
    if version == 0:
        yield Limited(0, {}, dict.fromkeys(wanted.asked, "no control groups here"), ())
        return
    folders: list[Path] = []
    try:
        yield _make(version, wanted, root, folders)
    finally:
        for folder in reversed(folders):
            _remove(folder)


def cgroup_version(root: Path = CGROUP_ROOT) -> Literal[0, 1, 2]:
    """Which version the system mounts; version 1 if both."""
    if (root / "memory").is_dir() or (root / "cpu").is_dir():
        return 1
    return 2 if (root / "cgroup.controllers").is_file() else 0


def disk_of(path: Path) -> str | None:
    """major:minor of the whole disk under a file; throttling does not know partitions."""
    number = path.stat().st_dev
    name = f"{os.major(number)}:{os.minor(number)}"
    block = Path("/sys/dev/block") / name
    if not block.exists():
        return None  # a network, overlay or memory file system
    real = block.resolve()
    if (real / "partition").exists():
        real = real.parent
    return (real / "dev").read_text("ascii").strip()


def _lines(version: Literal[1, 2], wanted: Wanted) -> dict[str, tuple[str, dict[str, object]]]:
    """Limit -> its controller, and what to write to which of the group's files."""
    quota = int((wanted.cpus or 1.0) * PERIOD_US)
    if version == 2:
        return {
            "memory": ("", {"memory.max": wanted.memory}),
            "cpus": ("", {"cpu.max": f"{quota} {PERIOD_US}"}),
            "read_rate": ("", {"io.max": f"{wanted.device} rbps={wanted.read_rate}"}),
        }
    rate = f"{wanted.device} {wanted.read_rate}"
    return {
        "memory": ("memory", {"memory.limit_in_bytes": wanted.memory}),
        "cpus": ("cpu", {"cpu.cfs_period_us": PERIOD_US, "cpu.cfs_quota_us": quota}),
        "read_rate": ("blkio", {"blkio.throttle.read_bps_device": rate}),
    }


def _make(version: Literal[1, 2], wanted: Wanted, root: Path, folders: list[Path]) -> Limited:
    """Set the limits; each group that is made for it is added to `folders`."""
    done: dict[str, float] = {}
    refused: dict[str, str] = {}
    for what, limit in wanted.asked.items():
        if what == "read_rate" and wanted.device is None:
            refused[what] = "the file is on no disk of its own (overlay, network or memory)"
            continue
        controller, lines = _lines(version, wanted)[what]
        try:
            folder = _group(root / controller, controller, folders)
            for file, text in lines.items():
                if version == 2 and not (folder / file).exists():
                    raise FileNotFoundError(2, f"{file} is not handed down to this group")
                _write(folder / file, text)
        except OSError as error:
            refused[what] = f"{controller}: {error.strerror}".removeprefix(": ")
        else:
            done[what] = float(limit)
    return Limited(version, done, refused, tuple(str(f / "cgroup.procs") for f in folders))


def _group(base: Path, controller: str, folders: list[Path]) -> Path:
    """A new group below this process's own, or the one that was made before."""
    parent = _own_group(base, controller)
    folder = parent / f"pedsup-bench-{os.getpid()}"
    if folder in folders:
        return folder
    for one in () if controller else ("memory", "cpu", "io"):
        # A group that holds processes may not hand controllers down: the root may.
        with suppress(OSError):
            _write(parent / "cgroup.subtree_control", f"+{one}")
    try:
        folder.mkdir()
    except OSError as error:
        raise OSError(error.errno, f"no group can be made: {error.strerror}") from error
    folders.append(folder)
    return folder


def _own_group(base: Path, controller: str) -> Path:
    """The folder of this process's group; the top if the group is not visible."""
    for line in Path("/proc/self/cgroup").read_text("ascii").splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(",") and (base / path.lstrip("/")).is_dir():
            return base / path.lstrip("/")
    return base


def _write(path: Path, value: object) -> None:
    path.write_text(f"{value}\n", encoding="ascii")


def _remove(folder: Path) -> None:
    """A group empties a moment after its last process ended."""
    for _ in range(20):
        try:
            folder.rmdir()
        except OSError:
            time.sleep(0.05)
        else:
            return
