"""All probes at once, each in a thread of its own, with one deadline for all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

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
    device = replace(device, properties=_patient(lambda: read_properties(device), {}, deadline_s))
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
    running = {topic: _Running(topic, probe) for topic, probe in probes.items()}
    findings: list[Finding] = []
    for topic, task in running.items():
        extra = MODEL_S if topic == "model" and file is not None else 0.0
        findings += task.result(started + deadline_s + extra)
    return Examination(tuple(findings), time.monotonic() - started)


class _Running:
    """A probe in a daemon thread: one that hangs keeps nobody waiting."""

    def __init__(self, topic: str, probe: Probe) -> None:
        self._topic, self._probe = topic, probe
        self._findings: Sequence[Finding] | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def result(self, deadline: float) -> Sequence[Finding]:
        """Its findings, or that it did not answer by the deadline (monotonic clock)."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._findings is None:
            return [Finding(self._topic, "note", "probe_slow")]
        return self._findings

    def _work(self) -> None:
        try:
            self._findings = self._probe()
        except Exception as error:
            # A doctor that crashes on what it examines would be useless: report it, never hide it.
            reason = f"{type(error).__name__}: {error}"[:200]
            self._findings = [Finding(self._topic, "note", "probe_failed", {"reason": reason})]


def _patient(
    ask: Callable[[], dict[str, str]], default: dict[str, str], s: float
) -> dict[str, str]:
    answers: list[dict[str, str]] = []
    thread = threading.Thread(target=lambda: answers.append(ask()), daemon=True)
    thread.start()
    thread.join(s / 2)
    return answers[0] if answers else default
