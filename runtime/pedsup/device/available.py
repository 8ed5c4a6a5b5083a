"""How much memory this process may still use: what the system has and its cgroups allow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pedsup.device.system_files import number_of, numbers_of, text_of
from pedsup.messages import message

UNLIMITED: Final = 1 << 60
"""cgroup v1 writes 2^63 - page for 'no limit'."""
_V2: Final = ("memory.max", "memory.current", "")
_V1: Final = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")


@dataclass(frozen=True)
class Available:
    """Bytes that are available, and what limits them."""

    bytes: int
    source: str


def available_memory(root: Path = Path("/")) -> Available | None:
    """The smallest of MemAvailable and what each cgroup above this process leaves.

    Every file may be missing or denied (Termux): what cannot be read sets no bound; None when
    nothing can be read at all.
    """
    bounds = [*_system(root), *_cgroups(root)]
    return min(bounds, key=lambda bound: bound.bytes, default=None)


def total_memory(root: Path = Path("/")) -> int | None:
    """The machine's memory in bytes (MemTotal); None if it cannot be read."""
    return memory_info(root).get("MemTotal")


def _system(root: Path) -> list[Available]:
    info = memory_info(root)
    if (free := info.get("MemAvailable")) is not None:
        return [Available(free, message("the system"))]
    if "MemFree" in info:  # kernels before 3.14
        return [Available(info["MemFree"] + info.get("Cached", 0), message("the system"))]
    return []


def memory_info(root: Path = Path("/")) -> dict[str, int]:
    """/proc/meminfo in bytes, by name; empty if it cannot be read."""
    return numbers_of(root / "proc/meminfo")


def _cgroups(root: Path) -> list[Available]:
    """What each ancestor cgroup leaves; its limit binds all groups below it."""
    bounds = []
    for line in text_of(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            base, names = root / "sys/fs/cgroup", _V2
        elif "memory" in controllers.split(","):
            base, names = root / "sys/fs/cgroup/memory", _V1
        else:
            continue
        group = Path(path.strip("/"))
        for folder in (group, *group.parents):
            if (left := _left(base / folder, names)) is not None:
                bounds.append(
                    Available(
                        left, message("the memory limit of the group {name}", name=f"/{folder}")
                    )
                )
    return bounds


def _left(folder: Path, names: tuple[str, str, str]) -> int | None:
    """What a group leaves, by the names of its limit and use, and how its statistics begin."""
    limit, used = number_of(folder / names[0]), number_of(folder / names[1])
    if limit is None or used is None or limit >= UNLIMITED:
        return None
    # Page cache charged to the group, which the kernel drops when memory is needed.
    charged = numbers_of(folder / "memory.stat")
    cache = sum(charged.get(f"{names[2]}{kind}_file", 0) for kind in ("inactive", "active"))
    return max(0, limit - used + cache)
