"""The document of `pedsup-bench mcqa` as JSON, as far as a page shows it."""

from __future__ import annotations

from typing import Final, TypedDict

from pedsup_bench.report.document import ModelFacts, Shown

SCHEMA: Final = "pedsup-bench-mcqa/1"


class AgainstFacts(TypedDict):
    """The reference on the same questions."""

    accuracy: float
    changed: int
    p_value: float


class LanguageFigures(TypedDict):
    """One language, or all."""

    n: int
    right: int
    accuracy: float
    interval: tuple[float, float]
    chance: float
    accuracy_as_printed: float
    consistent: float
    against: AgainstFacts | None


class _Mcqa(Shown):
    figures: dict[str, LanguageFigures]
    questions: str


class McqaFacts(_Mcqa, total=False):
    """All of it."""

    reference: ModelFacts | None
    calibrated_on: list[str]
