"""Run a command and measure it: wall time, peak memory by kind, bytes on disk.

Memory is sampled from /proc for every process of the command's session, so that helpers it
starts count too. Anonymous memory (with shared memory and swap) is told apart from file-backed
pages: the latter are mapped input that the system drops when it needs the room. Pages that two
processes share count twice; the pipelines measured here each run in one process at a time.

Fields: proc(5), /proc/pid/io.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pedsup.errors import EngineError, UnsupportedError
from pedsup_bench.speed.process_memory import Memory, process_fields, read_memory

INTERVAL: Final = 0.1
"""Seconds between two samples."""
DISK_EVERY: Final = 3
"""Walking a folder costs more than reading /proc: once in so many samples."""
LOG_TAIL: Final = 1500
_IO: Final = re.compile(rb"^(read_bytes|write_bytes): (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Usage:
    """What one command took. Bytes and seconds.

    Attributes:
        cpu: seconds of all cores, user and system; steadier than `wall` on a busy machine.
        peak_total: highest resident memory, mapped files included.
        peak_disk: most bytes that lay in the watched folders at one time.
        end_disk: bytes that lie there at the end.
        read, written: bytes from and to the disk (the page cache's hits are not in it); the
            last tenth of a second of a process may be missing.
    """

    wall: float
    cpu: float
    peak_anon: int
    peak_total: int
    peak_disk: int
    end_disk: int
    read: int
    written: int
    n_samples: int


@dataclass
class _Peaks:
    anon: int = 0
    total: int = 0
    disk: int = 0
    n: int = 0
    io: dict[int, tuple[int, int]] = field(default_factory=dict)

    def usage(self, wall: float, cpu: float, end_disk: int) -> Usage:
        return Usage(
            wall=wall,
            cpu=cpu,
            peak_anon=self.anon,
            peak_total=self.total,
            peak_disk=max(self.disk, end_disk),
            end_disk=end_disk,
            read=sum(r for r, _ in self.io.values()),
            written=sum(w for _, w in self.io.values()),
            n_samples=self.n,
        )


def _read_io(pid: int) -> tuple[int, int] | None:
    try:
        text = Path(f"/proc/{pid}/io").read_bytes()
    except OSError:  # gone, or not permitted in some containers: the figure is then 0
        return None
    values = {name: int(value) for name, value in _IO.findall(text)}
    return values.get(b"read_bytes", 0), values.get(b"write_bytes", 0)


def session_pids(session: int) -> Iterator[int]:
    """The live processes of a session; they stay in it when their parent ends before them."""
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        fields = process_fields(int(entry.name))
        if fields and int(fields[3]) == session:
            yield int(entry.name)


def folder_bytes(folders: Sequence[Path]) -> int:
    """Bytes that the files below these folders take on the disk (holes do not count)."""
    total = 0
    waiting = [str(f) for f in folders]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:  # it may vanish meanwhile
            for entry in entries:
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


def measure(
    command: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    watch: Sequence[Path] = (),
    on_sample: Callable[[Memory], object] = lambda memory: None,
) -> Usage:
    """Run `command` to its end and return what it took.

    Args:
        log: file that takes its stdout and stderr.
        env: its whole environment; None for ours.
        watch: folders whose size is followed.
        on_sample: called from another thread with each sample.

    Raises:
        EngineError: it ended with an error; the end of the log is in the message.
        UnsupportedError: this system has no /proc.
    """
    if not Path("/proc/self/status").exists():
        raise UnsupportedError(
            "this system has no /proc to measure memory with", wanted="Linux or Android"
        )
    with log.open("wb") as output:
        cpu_before, start = _children_cpu(), time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
        with _sampled(process, watch, on_sample) as peaks:
            code = process.wait()
            wall = time.perf_counter() - start
    if code:
        raise _failed(command, code, log)
    return peaks.usage(wall, _children_cpu() - cpu_before, folder_bytes(watch))


@contextmanager
def _sampled(
    process: subprocess.Popen[bytes], watch: Sequence[Path], on_sample: Callable[[Memory], object]
) -> Iterator[_Peaks]:
    """The peaks of a command, sampled meanwhile; at the end nothing of it runs any more."""
    peaks, done = _Peaks(), threading.Event()
    sampler = threading.Thread(
        target=_sample, args=(process.pid, watch, peaks, done, on_sample), daemon=True
    )
    sampler.start()
    try:
        yield peaks
    finally:
        _end_session(process)
        done.set()
        sampler.join()


def _children_cpu() -> float:
    """CPU seconds of all ended children of this process and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _sample(
    session: int,
    watch: Sequence[Path],
    peaks: _Peaks,
    done: threading.Event,
    on_sample: Callable[[Memory], object],
) -> None:
    while not done.is_set():
        began = time.perf_counter()
        memory, marks = Memory(), 0
        for pid in session_pids(session):
            one = read_memory(pid)
            memory, marks = memory + one, max(marks, one.peak)
            if (io := _read_io(pid)) is not None:
                peaks.io[pid] = io
        peaks.anon = max(peaks.anon, memory.anon)
        peaks.total = max(peaks.total, memory.total, marks)
        if peaks.n % DISK_EVERY == 0:
            peaks.disk = max(peaks.disk, folder_bytes(watch))
        peaks.n += 1
        on_sample(memory)
        done.wait(max(0.0, INTERVAL - (time.perf_counter() - began)))


def _end_session(process: subprocess.Popen[bytes]) -> None:
    """End the command and whatever it left running: nothing of it may outlive the measurement."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM if process.poll() is None else signal.SIGKILL)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _failed(command: Sequence[str | Path], code: int, log: Path) -> EngineError:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL))
        tail = file.read().decode("utf-8", "replace").strip()
    if code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
        remedy = "out of memory, if it was SIGKILL: close other programs or take a smaller --size"
    else:
        how, remedy = f"ended with exit code {code}", "run the command by hand to see all it says"
    return EngineError(
        f"a measured command {how}; below, the command and the end of its output",
        where=[" ".join(str(part) for part in command), *tail.splitlines()],
        remedy=remedy,
    )
