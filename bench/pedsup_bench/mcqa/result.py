"""The document of `pedsup-bench mcqa` as JSON, as far as a page shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pedsup_bench.report.document import ModelFacts, Shown

SCHEMA: Final = "pedsup-bench-mcqa/1"


@dataclass(frozen=True)
class Against:
    """The same questions answered by the reference."""

    accuracy: float
    only_model: int
    """Questions that only the judged model has right."""
    only_reference: int
    changed: int
    """Questions whose chosen option differs, right or wrong."""
    p_value: float
    """McNemar's exact test, two-sided."""


@dataclass(frozen=True)
class McqaFigures:
    """Figures of one language, or of all questions."""

    n: int
    right: int
    accuracy: float
    interval: tuple[float, float]
    """Wilson's 95 % interval of `accuracy`."""
    chance: float
    """What guessing gives: mean of 1 / number of options."""
    accuracy_as_printed: float
    """Without rotating the options."""
    consistent: float
    """Share of questions where every rotation chooses the same option."""
    against: Against | None


class _Mcqa(Shown):
    figures: dict[str, McqaFigures]
    questions: str


class McqaFacts(_Mcqa, total=False):
    """The whole document."""

    reference: ModelFacts | None
    calibrated_on: list[str]
