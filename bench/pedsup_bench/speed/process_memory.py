"""Resident memory of a process by kind, from /proc/pid/status: proc(5)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_STATUS: Final = re.compile(rb"^(RssAnon|RssFile|RssShmem|VmSwap|VmHWM):\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True)
class Memory:
    """Resident memory in bytes.

    Attributes:
        anon: private and shared memory that no file backs, swapped-out pages included.
        file: pages of mapped files.
        peak: the kernel's own high-water mark, which no sampling misses.
    """

    anon: int = 0
    file: int = 0
    peak: int = 0

    @property
    def total(self) -> int:
        return self.anon + self.file

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.anon + other.anon, self.file + other.file, self.peak + other.peak)


def read_memory(pid: int) -> Memory:
    """Memory of one process; zeros when it is gone or a zombie.

    Raises:
        PermissionError: another user's process.
    """
    try:
        text = Path(f"/proc/{pid}/status").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return Memory()
    kib = {name: int(value) for name, value in _STATUS.findall(text)}
    anon = kib.get(b"RssAnon", 0) + kib.get(b"RssShmem", 0) + kib.get(b"VmSwap", 0)
    return Memory(anon << 10, kib.get(b"RssFile", 0) << 10, kib.get(b"VmHWM", 0) << 10)


def engine_processes() -> list[int]:
    """This process and those that it started, such as `llama-server`."""
    return [os.getpid(), *children(os.getpid())]


def engine_memory() -> Memory:
    """Of `engine_processes` together."""
    return sum(map(read_memory, engine_processes()), start=Memory())


def children(parent: int) -> list[int]:
    """Processes started by `parent`, by the fourth field of /proc/pid/stat."""
    pids = [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdecimal()]
    return [pid for pid in pids if process_fields(pid)[1:2] == [str(parent)]]


def process_fields(pid: int) -> list[str]:
    """/proc/pid/stat from the state on (the name before it may hold anything)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()
