"""The figures of a task in JSON; None for what is not a number."""

from __future__ import annotations

from typing import TypedDict

from pedsup_bench.quality.result import QualityFacts


class SideFacts(TypedDict):
    """One file's figures: see `pedsup_bench.task.report.Side`."""

    loss: float | None
    token_accuracy: float
    exact: float
    right: float


class ExamplesFacts(TypedDict):
    """The file of held-out examples."""

    file: str
    sha256: str


class TaskFacts(TypedDict):
    """The file and its reference on the same examples."""

    examples: ExamplesFacts
    n: int
    n_tokens: int
    n_choice: int
    model: SideFacts
    reference: SideFacts
    loss_rise: float | None
    loss_rise_error: float | None
    drop: float
    changed: int
    p_value: float


class QualityWithTask(QualityFacts, total=False):
    """The document of `pedsup-bench quality`, where `--examples` was given."""

    task: TaskFacts
