"""Probes of memory, storage and heat."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Final

from pedsup.device.available import available_memory, memory_info
from pedsup.device.heat import Heat, HeatSensors
from pedsup.device.storage import file_system, read_rate
from pedsup.doctor.device import Device
from pedsup.doctor.finding import Finding
from pedsup.files.paths import cache_folder, data_folder
from pedsup.progress import human_bytes

SHORT_MEMORY: Final = 3 << 29
"""Bytes: below 1.5 GiB no model that helps runs."""
SHORT_STORAGE: Final = 1 << 28
FULL_SWAP: Final = 0.1
SLOW_READ: Final = 100e6
"""Bytes per second: a slow SD card."""
READ_S: Final = 0.25
"""Seconds of reading a file whose speed is measured."""
SHARED_KINDS: Final = ("fuse", "sdcardfs", "esdfs", "exfat", "vfat")


def memory(device: Device) -> list[Finding]:
    info, available = memory_info(device.root), available_memory(device.root)
    total = info.get("MemTotal")
    if available is None or total is None:
        return [Finding("memory", "note", "memory_unknown")]
    short = available.bytes < SHORT_MEMORY
    values = {
        "total": human_bytes(total),
        "available": human_bytes(available.bytes),
        "source": available.source,
    }
    key, level = ("memory_short", "problem") if short else ("memory", "ok")
    return [Finding("memory", level, key, values)]  # type: ignore[arg-type]


def swap(device: Device) -> list[Finding]:
    """Swap, which on phones is memory compressed into itself (zram)."""
    info = memory_info(device.root)
    total, free = info.get("SwapTotal", 0), info.get("SwapFree", 0)
    if not total:
        return [Finding("swap", "ok", "no_swap")]
    zram = (device.root / "sys/block/zram0").is_dir() or "zram" in device.text("proc/swaps")
    values = {
        "kind": "zram" if zram else "swap",
        "total": human_bytes(total),
        "free": human_bytes(min(free, total)),
    }
    full = free < FULL_SWAP * total
    return [Finding("swap", "note" if full else "ok", "swap_full" if full else "swap", values)]


def storage(device: Device, model: Path | None) -> list[Finding]:
    """Room for sessions, and how fast the model (or a saved state) is read."""
    findings = [_room(folder) for folder in dict.fromkeys((data_folder(), cache_folder()))]
    file = model if model is not None and model.is_file() else _largest(cache_folder() / "prefix")
    if file is None:
        return findings
    kind = file_system(file, device.text("proc/self/mountinfo"))
    if kind.startswith(SHARED_KINDS):
        values = {"file": str(file), "kind": kind}
        findings.append(Finding("storage", "note", "storage_fuse", values))
    if (rate := read_rate(file, seconds=READ_S)) is not None:
        size = file.stat().st_size
        values = {
            "file": file.name,
            "rate": human_bytes(rate),
            "load_s": f"{size / rate:.0f}",
        }
        slow = rate < SLOW_READ
        key = "storage_slow" if slow else "storage_speed"
        findings.append(Finding("storage", "problem" if slow else "ok", key, values))
    return findings


def heat(device: Device) -> list[Finding]:
    now = HeatSensors(device.root).read()
    if not now.known:
        return [Finding("heat", "ok", "heat_unknown")]
    key = "heat_hot" if now.hot else "heat"
    return [Finding("heat", "note" if now.hot else "ok", key, {"degrees": degrees(now)})]


def degrees(heat_now: Heat) -> str:
    """E.g. 'cpu 61 °C, battery 38 °C'."""
    pairs = (("cpu", heat_now.cpu), ("battery", heat_now.battery))
    return ", ".join(f"{name} {value:.0f} °C" for name, value in pairs if value is not None)


def _room(folder: Path) -> Finding:
    there = next(p for p in (folder, *folder.parents) if os.access(p, os.F_OK))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = os.strerror(errno.EACCES if there.is_dir() else errno.ENOTDIR)
        values = {"folder": str(there), "reason": reason}
        return Finding("storage", "problem", "storage_denied", values)
    free = shutil.disk_usage(there).free
    values = {"free": human_bytes(free), "folder": str(folder), "cache": str(cache_folder())}
    short = free < SHORT_STORAGE
    key = "storage_short" if short else "storage"
    return Finding("storage", "problem" if short else "ok", key, values)


def _largest(folder: Path) -> Path | None:
    try:
        files = [path for path in folder.iterdir() if path.is_file()]
        return max(files, key=lambda path: path.stat().st_size, default=None)
    except OSError:
        return None
