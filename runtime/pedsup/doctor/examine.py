"""All probes at once, each in a thread of its own, with one deadline for all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, Generic, TypeVar

from pedsup import __version__
from pedsup.doctor import android, engines, model, processor, resources
from pedsup.doctor.device import Device, read_properties
from pedsup.doctor.finding import Finding, Level
from pedsup.messages import Message, message
from pedsup.settings.schema import Settings
from pedsup.texts.intended_use import Language
from pedsup.texts.language import translated
from pedsup.texts.screen import wrapped

SCHEMA: Final = "pedsup-doctor/1"
DEADLINE_S: Final = 1.5
"""Seconds for all probes; a probe that hangs is given up and reported."""
MODEL_S: Final = 30.0
"""For the model: reading a header with 262144 token texts takes a phone some seconds."""
NARROW: Final = 72
"""Below this many columns the findings are not set in columns of their own."""
LEVELS: Final[tuple[Level, ...]] = ("ok", "note", "problem")
MARKS: Final[dict[Level, Message]] = {
    "ok": message("ok"),
    "note": message("note"),
    "problem": Message("!!"),
}

Probe = Callable[[], list[Finding]]
T = TypeVar("T")


@dataclass(frozen=True)
class Examination:
    """The findings, in the order of the topics."""

    findings: tuple[Finding, ...]
    seconds: float

    @property
    def level(self) -> Level:
        """The worst level."""
        return max((f.level for f in self.findings), key=LEVELS.index, default="ok")

    def document(self, language: Language) -> dict[str, object]:
        return {
            "schema": SCHEMA,
            "pedsup": __version__,
            "level": self.level,
            "seconds": round(self.seconds, 3),
            "findings": [finding.describe(language) for finding in self.findings],
        }

    def text(self, language: Language, columns: int | None = None) -> str:
        """One line per finding, its remedy below; both broken where a screen has `columns`."""
        label_width = max(len(f.label(language)) for f in self.findings)
        narrow = columns is not None and columns < NARROW
        indent = " " * (6 if narrow else label_width + 8)
        lines = []
        for finding in self.findings:
            label = finding.label(language)
            mark = translated(MARKS[finding.level], language)
            start = f"{mark:>4}  {label}: " if narrow else f"{mark:>4}  {label:<{label_width}}  "
            lines.append(wrapped(start + finding.found(language), columns, indent))
            if remedy := finding.remedy(language):
                lines.append(wrapped(f"{indent}-> {remedy}", columns, indent + "   "))
        return "\n".join(lines)


def examine(
    device: Device, file: Path | None, settings: Settings, *, deadline_s: float = DEADLINE_S
) -> Examination:
    """Run every probe. Never raises for what a file or a command holds or does."""
    started = time.monotonic()
    properties = _Running(lambda: read_properties(device)).result(started + deadline_s / 2)
    device = replace(device, properties=properties or {})
    probes: dict[str, Probe] = {
        "chip": lambda: processor.chip(device),
        "cores": lambda: processor.cores(device),
        "features": lambda: processor.features(device),
        "page": lambda: processor.page(device),
        "memory": lambda: resources.memory(device),
        "swap": lambda: resources.swap(device),
        "storage": lambda: resources.storage(device, file),
        "heat": lambda: resources.heat(device),
        "engine": lambda: engines.engines(device),
        "phantom": lambda: android.phantom(device),
        "battery": lambda: android.battery(device),
        "termux": lambda: android.termux(device),
        "model": lambda: model.model_fit(device, file, settings),
    }
    running = {topic: _Running(partial(_examined, topic, probe)) for topic, probe in probes.items()}
    findings: list[Finding] = []
    for topic, task in running.items():
        extra = MODEL_S if topic == "model" and file is not None else 0.0
        found = task.result(started + deadline_s + extra)
        findings += [Finding(topic, "note", "probe_slow")] if found is None else found
    return Examination(tuple(findings), time.monotonic() - started)


class _Running(Generic[T]):
    """Work in a daemon thread: what hangs keeps nobody waiting."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work, self._done = work, list[T]()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def result(self, deadline: float) -> T | None:
        """What it gave; None where it is not done by the deadline (monotonic clock)."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return self._done[0] if self._done else None

    def _run(self) -> None:
        self._done.append(self._work())


def _examined(topic: str, probe: Probe) -> list[Finding]:
    try:
        return probe()
    except Exception as error:
        # A doctor that crashes on what it examines would be useless: report it, never hide it.
        reason = f"{type(error).__name__}: {error}"[:200]
        return [Finding(topic, "note", "probe_failed", {"reason": reason})]
