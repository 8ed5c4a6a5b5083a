"""After a sudden end: what was going on, the likeliest cause, and what to do about it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pedsup.crash.marker import (
    CRASH,
    SIZE,
    SUFFIX,
    RunFacts,
    boot_id,
    is_abandoned,
    oom_kills,
    read_facts,
)
from pedsup.files.timestamp import local
from pedsup.memory.fit import CONTEXTS, SMALL_BATCH
from pedsup.messages import Message, joined, message

Cause = Literal["restart", "crash", "oom", "memory", "killed"]
LOW_MEMORY: Final = 300 << 20
"""Free bytes below which Android kills apps on a phone with 4 GB (a rule of thumb)."""
LEAST_CTX: Final = 1024


@dataclass(frozen=True)
class SuddenEnd:
    """A process of ours that ended without cleaning up."""

    facts: RunFacts
    crash: str = ""
    """First line that the fault handler wrote."""


@dataclass(frozen=True)
class Present:
    """What is known now, for comparison."""

    boot: str
    oom_kills: int | None
    android: bool = True


def present() -> Present:
    android = sys.platform == "android" or "ANDROID_ROOT" in os.environ  # also in a proot
    return Present(boot_id(), oom_kills(), android)


def take_sudden_ends(folder: Path) -> list[SuddenEnd]:
    """The marks that dead processes left, the latest last; they are removed by this."""
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if not is_abandoned(fd):
                continue
            facts = read_facts(os.pread(fd, SIZE, 0))
            crash = path.with_suffix(CRASH)
            first = ""
            with suppress(OSError):
                first = crash.read_text("utf-8", "replace").partition("\n")[0].strip()
            for leftover in (path, crash):
                with suppress(OSError):
                    leftover.unlink(missing_ok=True)
            if facts is not None:
                found.append(SuddenEnd(facts, first))
        finally:
            os.close(fd)
    return sorted(found, key=lambda end: end.facts.beat)


def likely_cause(end: SuddenEnd, today: Present) -> Cause:
    """The best explanation of the evidence.

    A restart explains everything; a crash leaves its own word; the kernel counts its memory
    kills, but Android's low-memory killer does it from outside and leaves no count. There little
    free memory at the last beat, or a need above what there was, must do as evidence.
    """
    facts = end.facts
    if facts.boot and today.boot and facts.boot != today.boot:
        return "restart"
    if end.crash:
        return "crash"
    before, now = facts.oom_kills, today.oom_kills
    if before is not None and now is not None and now > before:
        return "oom"
    start = facts.memory_at_start
    short = start is not None and facts.need > 0.9 * start
    low = facts.memory_free is not None and facts.memory_free < LOW_MEMORY
    return "memory" if facts.phase != "ready" and (low or short) else "killed"


def remedies(end: SuddenEnd, cause: Cause, *, android: bool = True) -> list[str]:
    """Options of the command line, and what to do without one, the easiest first."""
    facts = end.facts
    if cause == "restart":
        return []
    if cause == "crash":
        options = ["--extra-buffers off"] if facts.extra_buffers else []
        return [*options, "--engine inprocess" if facts.server else "--engine server"]
    found = []
    if facts.extra_buffers:
        found.append("--extra-buffers off")
    smaller = [n for n in CONTEXTS if LEAST_CTX <= n <= facts.n_ctx // 2]
    if smaller:
        found.append(f"--ctx {smaller[-1]}")
    if facts.n_ubatch > SMALL_BATCH:
        found.append(f"--ubatch {SMALL_BATCH}")
    if not android:
        return [*found, CLOSE_PROGRAMS, SMALLER_FILE]
    return [*found, CLOSE_APPS, SMALLER_MODEL]


def aftermath_text(ends: Sequence[SuddenEnd], today: Present, *, resuming: bool) -> list[Message]:
    """What to say about the latest sudden end; nothing if there was none."""
    if not ends:
        return []
    end = ends[-1]
    facts = end.facts
    cause = likely_cause(end, today)
    lines = [
        message(
            "The last run ended suddenly while {phase} ({model}, {time}).",
            phase=_PHASES[facts.phase],
            model=Path(facts.model).name,
            time=local(facts.beat),
        ),
        message("It crashed in native code: {crash}.", crash=_crash(end.crash))
        if cause == "crash"
        else (_CAUSES if today.android else {**_CAUSES, **_ELSEWHERE})[cause],
    ]
    helps = remedies(end, cause, android=today.android)
    if helps:
        lines.append(message("What helps: {remedies}.", remedies=joined("; ", helps)))
    if facts.session and not resuming:
        lines.append(message("To go on where it ended: pedsup-run --resume {id}", id=facts.session))
    return lines


def _crash(first_line: str) -> Message:
    """What the fault handler wrote, e.g. 'Fatal Python error: Segmentation fault'."""
    kind, mark, what = first_line.partition(": ")
    if mark and kind == "Fatal Python error":
        return message("fatal Python error: {what}", what=_SIGNALS.get(what, what))
    return joined("", [first_line])


CLOSE_APPS: Final = message("close other apps")
SMALLER_MODEL: Final = message("a smaller file (E2B, or Q4_0)")
CLOSE_PROGRAMS: Final = message("close other programs")
SMALLER_FILE: Final = message("a smaller file (pedsup-export plan)")
_PHASES: Final[dict[str, Message]] = {
    "loading": message("loading the model"),
    "ready": message("waiting for a question"),
    "answering": message("answering"),
}
_CAUSES: Final[dict[Cause, Message]] = {
    "restart": message(
        "The device has been restarted since: its battery ran empty, or somebody restarted it."
    ),
    "oom": message(
        "The kernel has killed processes for lack of memory since then: most likely this program."
    ),
    "memory": message(
        "Most likely the system took the memory back (signal 9, the low-memory killer): little was "
        "left."
    ),
    "killed": message(
        "It was killed from outside (signal 9). Android ends apps in the background to save memory "
        "or battery: keep Termux in the foreground, or hold it with termux-wake-lock."
    ),
}
_ELSEWHERE: Final[dict[Cause, Message]] = {
    "restart": message("The computer has been restarted since."),
    "memory": message(
        "Most likely the system ended it to get memory back (signal 9): little was left."
    ),
    "killed": message(
        "It was killed from outside (signal 9): by the system, another program, or a user."
    ),
}
"""What is another on a laptop or a server: no Android ends its programs."""
_SIGNALS: Final[dict[str, Message]] = {
    "Segmentation fault": message("invalid memory access"),
    "Illegal instruction": message("illegal instruction"),
    "Aborted": message("it stopped because of an internal error"),
    "Bus error": message("the model file could not be read"),
}
