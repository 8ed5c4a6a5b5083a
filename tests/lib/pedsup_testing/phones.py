"""File trees of the phones that pedsup plans for, as the kernel would show them.

Clusters, clocks and core numbers are the published ones of the chips. Capacities are not recorded
on devices: they are work per clock times clock, scaled so that the best core has 1024, as Linux
computes them from a device tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Access = Literal["open", "termux", "cpuinfo only", "nothing"]
"""`open`: all files. `termux`: cpu_capacity denied, clocks readable (what unrooted apps often
see). `cpuinfo only`: nothing under /sys. `nothing`: not even /proc/cpuinfo."""


@dataclass(frozen=True)
class Cluster:
    """Cores of one kind, in order of their numbers."""

    count: int
    implementer: int
    part: int
    max_khz: int
    capacity: int


@dataclass(frozen=True)
class Phone:
    """A chip: clusters from cpu0 up, and which cores are the big ones."""

    clusters: tuple[Cluster, ...]
    big: frozenset[int]
    features: str


ARM, QUALCOMM = 0x41, 0x51
BASE = "fp asimd evtstrm aes pmull sha1 sha2 crc32"
DOT = BASE + " atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"

PHONES = {
    "snapdragon-685": Phone(
        (Cluster(4, QUALCOMM, 0x801, 1900800, 425), Cluster(4, QUALCOMM, 0x800, 2803200, 1024)),
        frozenset({4, 5, 6, 7}),
        BASE,
    ),
    "helio-g85": Phone(
        (Cluster(6, ARM, 0xD05, 1800000, 458), Cluster(2, ARM, 0xD0A, 2000000, 1024)),
        frozenset({6, 7}),
        DOT,
    ),
    "dimensity-6100+": Phone(
        (Cluster(6, ARM, 0xD05, 2000000, 372), Cluster(2, ARM, 0xD0B, 2200000, 1024)),
        frozenset({6, 7}),
        DOT,
    ),
    "snapdragon-695": Phone(
        (Cluster(6, ARM, 0xD05, 1804800, 288), Cluster(2, ARM, 0xD41, 2208000, 1024)),
        frozenset({6, 7}),
        DOT,
    ),
    "exynos-1380": Phone(
        (Cluster(4, ARM, 0xD05, 2002000, 296), Cluster(4, ARM, 0xD41, 2400000, 1024)),
        frozenset({4, 5, 6, 7}),
        DOT,
    ),
    "tensor-g3": Phone(
        (
            Cluster(4, ARM, 0xD46, 1704000, 172),
            Cluster(4, ARM, 0xD4D, 2367000, 655),
            Cluster(1, ARM, 0xD4E, 2914000, 1024),
        ),
        frozenset({4, 5, 6, 7, 8}),
        DOT + " sve sve2 i8mm bf16",
    ),
}


def write_tree(root: Path, phone: Phone, access: Access = "open") -> Path:
    """The phone's /proc and /sys below `root`. A denied file is one that cannot be read."""
    cpuinfo, index = [], 0
    for cluster in phone.clusters:
        for _ in range(cluster.count):
            cpuinfo += [
                f"processor\t: {index}",
                "BogoMIPS\t: 26.00",
                f"Features\t: {phone.features}",
                f"CPU implementer\t: {cluster.implementer:#04x}",
                "CPU architecture: 8",
                "CPU variant\t: 0x1",
                f"CPU part\t: {cluster.part:#05x}",
                "CPU revision\t: 0",
                "",
            ]
            if access in ("open", "termux"):
                folder = root / f"sys/devices/system/cpu/cpu{index}"
                _put(folder / "cpufreq/cpuinfo_max_freq", f"{cluster.max_khz}\n")
                _put(folder / "cpu_capacity", f"{cluster.capacity}\n" if access == "open" else None)
            index += 1
    _put(root / "proc/cpuinfo", "\n".join(cpuinfo) if access != "nothing" else None)
    return root


def n_cores(phone: Phone) -> int:
    """Cores of the chip."""
    return sum(cluster.count for cluster in phone.clusters)


def _put(path: Path, content: str | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        # For root no mode denies reading; a folder in the file's place cannot be read by anyone.
        path.mkdir()
    else:
        path.write_text(content)
