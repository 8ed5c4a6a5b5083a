"""A mark in the data folder while a model is in use, so that the next start notices a crash.

A process that is killed (Android's low-memory killer, "signal 9" in Termux, a battery that runs
empty) can say nothing. So a small file says what was going on, and is removed at every orderly end,
errors included. It is locked by its process: a file whose lock is free was left behind.

    {"schema": 1, "pid": ..., "boot": ..., "phase": "answering", "memory_free": ..., ...}

It holds no word of the conversation. While the model works, time and free memory are written every
two seconds, in place and in one write; `pedsup.crash.report` reads them.
"""

from __future__ import annotations

import faulthandler
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Final, Literal

from pedsup.device.available import available_memory
from pedsup.device.system_files import numbers_of, text_of
from pedsup.errors import BadFileError
from pedsup.files.fsio import sync_file, try_lock
from pedsup.files.records import record
from pedsup.files.source import Source, parsed_json
from pedsup.files.timestamp import now

Phase = Literal["loading", "ready", "answering"]
SCHEMA: Final = 1
SIZE: Final = 4096
"""Size of the file in bytes: a kill cannot tear the write of a single page."""
BEAT_S: Final = 2.0
MARKS: Final = "running"
"""Folder of the marks, below `paths.data_folder()`."""
SUFFIX: Final = ".run"
CRASH: Final = ".crash"
"""Suffix of the file beside the mark in which Python's fault handler reports a crash."""


@dataclass(frozen=True)
class RunFacts:
    """What was running. Bytes; times in UTC."""

    model: str = ""
    session: str = ""
    phase: Phase = "loading"
    n_ctx: int = 0
    n_ubatch: int = 0
    extra_buffers: bool = False
    server: bool = False
    need: int = 0
    """The estimate before load."""
    memory_at_start: int | None = None
    memory_free: int | None = None
    """At the last update."""
    oom_kills: int | None = None
    """The kernel's count of memory kills since it booted, at the start."""
    boot: str = ""
    pid: int = 0
    started: str = ""
    beat: str = ""
    schema: int = SCHEMA


class RunMarker:
    """The mark of this process. Use `close` at every orderly end."""

    def __init__(self, path: Path, fd: int, facts: RunFacts) -> None:
        self.path, self._fd, self.facts = path, fd, facts
        self._closed, self._busy = threading.Event(), threading.Event()
        self._write_lock = threading.Lock()
        self._crash = _watch_crashes(path.with_suffix(CRASH))
        self._write(durable=True)
        self._thread = threading.Thread(target=self._beat, name="pedsup-marker", daemon=True)
        self._thread.start()

    @classmethod
    def create(cls, folder: Path, facts: RunFacts) -> RunMarker | None:
        """Make a mark; None where the folder cannot be written: it only serves a warning."""
        path = folder / f"{os.getpid()}{SUFFIX}"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return None
        if try_lock(fd) is False:
            os.close(fd)
            return None
        time = now()
        memory = _free()
        return cls(
            path,
            fd,
            replace(
                facts, pid=os.getpid(), boot=boot_id(), started=time, beat=time,
                memory_at_start=memory, memory_free=memory, oom_kills=oom_kills(),
            ),
        )  # fmt: skip

    def set_session(self, session: str) -> None:
        """Name the transcript that can be resumed."""
        self.facts = replace(self.facts, session=session)
        self._write()

    def set_phase(self, phase: Phase) -> None:
        """Say what is going on; between questions nothing is written."""
        self.facts = replace(self.facts, phase=phase)
        self._write()
        if phase == "ready":
            self._busy.clear()
        else:
            self._busy.set()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """The phase of one turn."""
        self.set_phase("answering")
        try:
            yield
        finally:
            self.set_phase("ready")

    def close(self) -> None:
        """Remove the mark."""
        self._closed.set()
        self._busy.set()
        self._thread.join(timeout=BEAT_S)
        if self._crash is not None:
            faulthandler.disable()
            self._crash.close()
            self._crash = None
        if self._fd >= 0:
            for path in (self.path, self.path.with_suffix(CRASH)):
                with suppress(OSError):
                    path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1
            with suppress(OSError):  # other programs' marks may be in it
                self.path.parent.rmdir()

    def _beat(self) -> None:
        while not self._closed.is_set():
            self._busy.wait()
            if self._closed.wait(BEAT_S):
                return
            if self._busy.is_set():
                self._write()

    def _write(self, *, durable: bool = False) -> None:
        """The facts, padded to one page. A full disk must not end a conversation."""
        with self._write_lock, suppress(OSError):
            self.facts = replace(self.facts, beat=now(), memory_free=_free())
            text = json.dumps(asdict(self.facts), ensure_ascii=False).encode("utf-8", "replace")
            os.pwrite(self._fd, text[:SIZE].ljust(SIZE), 0)
            if durable:
                sync_file(self._fd)


def read_facts(raw: bytes) -> RunFacts | None:
    """The facts of a mark; None if it is not ours or was torn by a power cut."""
    source = Source("the mark", MARKS, only_known=False)
    try:
        facts = record(RunFacts, parsed_json(raw, source), source)
    except BadFileError:
        return None
    return facts if facts.schema == SCHEMA else None


def is_abandoned(fd: int) -> bool:
    """Take the lock of a mark; False if a live process may hold it."""
    try:
        return try_lock(fd) is True
    except OSError:
        return False


def boot_id() -> str:
    """An id that changes when the machine restarts; empty if it cannot be read."""
    return text_of(Path("/proc/sys/kernel/random/boot_id")).strip()


def oom_kills() -> int | None:
    """How many processes the kernel killed for lack of memory since it booted; None if unknown."""
    return numbers_of(Path("/proc/vmstat")).get("oom_kill")


def _free() -> int | None:
    found = available_memory()
    return found.bytes if found is not None else None


def _watch_crashes(path: Path) -> IO[bytes] | None:
    """Direct Python's fault handler to `path`; None if it is already in use."""
    if faulthandler.is_enabled():
        return None
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        file = os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0)
    except OSError:
        return None
    faulthandler.enable(file, all_threads=False)
    return file
