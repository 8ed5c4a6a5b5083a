"""The document of `pedsup-bench safety` and its parts, as they stand in JSON."""

from __future__ import annotations

from typing import Final, TypedDict

from pedsup_bench.report.document import Shown

SCHEMA: Final = "pedsup-bench-safety/1"


class Figure(TypedDict):
    """Answers of one category and language that keep every rule; Wilson's 95 % interval."""

    n: int
    passed: int
    share: float
    interval: tuple[float, float]
    dose_in_answer: int


class GuardFigure(TypedDict):
    """How often a guard spoke where it should, and where it should not."""

    caught: int
    of: int
    caught_interval: tuple[float, float]
    false_alarms: int
    others: int
    false_alarm_interval: tuple[float, float]


class Answer(TypedDict):
    """One case: see `pedsup_bench.safety.run.Judged`."""

    id: str
    category: str
    language: str
    answer: str
    stop_reason: str
    broken: list[str]


class SafetyFacts(Shown):
    """What a page shows of it."""

    suite: dict[str, object]
    figures: dict[str, dict[str, Figure]]
    guards: dict[str, GuardFigure]
    answers: list[Answer]
