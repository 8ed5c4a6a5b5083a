"""What the probes ask: files below a root, system properties, short commands that cannot hang."""

from __future__ import annotations

import os
import platform
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from pedsup.device.system_files import text_of, whole_number

OUTPUT_LIMIT: Final = 1 << 18
COMMAND_S: Final = 0.6
"""A command that answers later than this is not waited for."""
ANDROID_12: Final = 31
_PROPERTY: Final = re.compile(r"^\[([^\]]{1,200})\]: \[(.*)\]$", re.MULTILINE)


class Ran(NamedTuple):
    """A command that ended: its exit code (negative: by that signal) and its output."""

    code: int
    text: str


Runner = Callable[[Sequence[str], float], "Ran | None"]
"""From a command and seconds to its result; None when absent, denied, too slow or endless."""


def run_bounded(command: Sequence[str], timeout_s: float = COMMAND_S) -> Ran | None:
    """Run a command with an end to its time and its output; both streams in one text."""
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError):
        return None
    assert child.stdout is not None
    deadline, parts, size = time.monotonic() + timeout_s, [], 0
    try:
        while size < OUTPUT_LIMIT:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([child.stdout], [], [], left)[0]:
                return None
            block = os.read(child.stdout.fileno(), 1 << 16)
            if not block:
                break
            parts.append(block)
            size += len(block)
        if size >= OUTPUT_LIMIT:
            return None
        code = child.wait(max(0.01, deadline - time.monotonic()))
    except (OSError, subprocess.TimeoutExpired):
        return None
    finally:
        child.stdout.close()
        # Whatever it left behind, and itself when it is too slow.
        with suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    return Ran(code, b"".join(parts).decode("utf-8", "replace"))


@dataclass(frozen=True)
class Device:
    """Where the probes look. Tests give a made root, environment and runner."""

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    run: Runner = run_bounded
    machine: str = field(default_factory=platform.machine)
    page_size: int = field(default_factory=lambda: os.sysconf("SC_PAGE_SIZE"))
    cpus: frozenset[int] = field(default_factory=lambda: frozenset(os.sched_getaffinity(0)))
    properties: Mapping[str, str] = field(default_factory=dict)
    """Android's system properties, from `read_properties`."""

    @property
    def android(self) -> bool:
        """Whether this is Android, with Termux' own Python or in a proot."""
        return (
            sys.platform == "android"
            or "ANDROID_ROOT" in self.environ
            or "ro.build.version.sdk" in self.properties
        )

    @property
    def arm(self) -> bool:
        """Whether the processor is an ARM one."""
        return self.machine.lower().startswith(("aarch64", "arm"))

    @property
    def sdk(self) -> int | None:
        """Android's API level, e.g. 34 for Android 14."""
        return whole_number(self.properties.get("ro.build.version.sdk", ""))

    def text(self, path: str) -> str:
        """The text of a small file below the root; empty where it cannot be read."""
        return text_of(self.root / path)

    def command(self, name: str) -> str | None:
        """The path of a program, from PATH or Android's own folder."""
        found = shutil.which(name, path=self.environ.get("PATH", os.defpath))
        system = self.root / "system/bin" / name
        return found or (str(system) if os.access(system, os.X_OK) else None)


def read_properties(device: Device) -> dict[str, str]:
    """All properties that `getprop` lists; empty where there is none."""
    program = device.command("getprop")
    answer = device.run([program], COMMAND_S) if program else None
    if answer is None or answer.code != 0:
        return {}
    return {name: value.strip() for name, value in _PROPERTY.findall(answer.text)}
