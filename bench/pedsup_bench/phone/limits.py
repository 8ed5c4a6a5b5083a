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
from collections.abc import Callable, Iterator
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
    makers = {1: _make_v1, 2: _make_v2}
    if version == 0:
        yield Limited(0, {}, dict.fromkeys(wanted.asked, "no control groups here"), ())
        return
    folders: list[Path] = []
    try:
        yield makers[version](wanted, root, f"pedsup-bench-{os.getpid()}", folders)
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


def _make_v1(wanted: Wanted, root: Path, name: str, folders: list[Path]) -> Limited:
    done: dict[str, float] = {}
    refused: dict[str, str] = {}
    procs: list[str] = []

    def limit(what: str, controller: str, write: Callable[[Path], None]) -> None:
        try:
            folder = _own_group(root / controller, controller) / name
            if folder not in folders:
                folder.mkdir()
                folders.append(folder)
            write(folder)
        except OSError as error:
            refused[what] = f"{controller}: {error.strerror}"
            return
        done[what] = float(wanted.asked[what])
        if str(folder / "cgroup.procs") not in procs:
            procs.append(str(folder / "cgroup.procs"))

    if wanted.memory is not None:
        limit("memory", "memory", lambda f: _write(f / "memory.limit_in_bytes", wanted.memory))
    if wanted.cpus is not None:
        limit("cpus", "cpu", lambda f: _quota_v1(f, wanted.cpus or 1.0))
    _limit_reads(
        wanted, refused,
        lambda: limit("read_rate", "blkio", lambda f: _write(
            f / "blkio.throttle.read_bps_device", f"{wanted.device} {wanted.read_rate}")),
    )  # fmt: skip
    return Limited(1, done, refused, tuple(procs))


def _make_v2(wanted: Wanted, root: Path, name: str, folders: list[Path]) -> Limited:
    done: dict[str, float] = {}
    refused: dict[str, str] = {}
    parent = _own_group(root, "")
    folder = parent / name
    try:
        for controller in ("memory", "cpu", "io"):
            # A group that holds processes may not hand controllers down: the root may.
            with suppress(OSError):
                _write(parent / "cgroup.subtree_control", f"+{controller}")
        folder.mkdir()
        folders.append(folder)
    except OSError as error:
        why = f"no group can be made: {error.strerror}"
        return Limited(2, {}, dict.fromkeys(wanted.asked, why), ())

    def limit(what: str, file: str, text: object) -> None:
        try:
            if not (folder / file).exists():
                raise FileNotFoundError(2, f"{file} is not handed down to this group")
            _write(folder / file, text)
        except OSError as error:
            refused[what] = str(error.strerror)
            return
        done[what] = float(wanted.asked[what])

    if wanted.memory is not None:
        limit("memory", "memory.max", wanted.memory)
    if wanted.cpus is not None:
        limit("cpus", "cpu.max", f"{int(wanted.cpus * PERIOD_US)} {PERIOD_US}")
    _limit_reads(
        wanted, refused,
        lambda: limit("read_rate", "io.max", f"{wanted.device} rbps={wanted.read_rate}"),
    )  # fmt: skip
    return Limited(2, done, refused, (str(folder / "cgroup.procs"),))


def _limit_reads(wanted: Wanted, refused: dict[str, str], limit: Callable[[], None]) -> None:
    if wanted.read_rate is None:
        return
    if wanted.device is None:
        refused["read_rate"] = "the file is on no disk of its own (overlay, network or memory)"
        return
    limit()


def _quota_v1(folder: Path, cpus: float) -> None:
    _write(folder / "cpu.cfs_period_us", PERIOD_US)
    _write(folder / "cpu.cfs_quota_us", int(cpus * PERIOD_US))


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
