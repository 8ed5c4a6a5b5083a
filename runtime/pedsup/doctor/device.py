"""What the probes ask: files below a root, system properties, short commands that cannot hang."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pedsup.child.bounded import COMMAND_S, Ran, run_bounded
from pedsup.device.system_files import text_of, whole_number

ANDROID_12: Final = 31
_PROPERTY: Final = re.compile(r"^\[([^\]]{1,200})\]: \[(.*)\]$", re.MULTILINE)
Runner = Callable[[Sequence[str], float], "Ran | None"]
"""Runs a command for at most so many seconds; None if it is absent, denied, slow or endless."""


@dataclass(frozen=True)
class Device:
    """Where the probes look. Tests give a root, environment and runner of their own."""

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
