"""The figures of a task, and the document that holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from pedsup_bench.quality.result import QualityFacts


@dataclass(frozen=True)
class Side:
    """One file's figures."""

    loss: float
    """Nats per token of the answers. Two vocabularies split an answer differently: the count of
    tokens is then the reference's for both."""
    token_accuracy: float
    exact: float
    """Share of the examples whose answer greedy decoding writes exactly."""
    right: float
    """Share with the right option; of examples without options, with the exact answer."""


@dataclass(frozen=True)
class TaskFigures:
    """The file and its reference on the same examples."""

    n: int
    n_tokens: int
    n_choice: int
    """Examples whose answer names an option."""
    model: Side
    reference: Side
    loss_rise: float
    """Loss of the file above that of the reference, nats per token of the answers."""
    loss_rise_error: float | None
    """Its standard error over examples, because the tokens of one example are not independent; None
    for one example."""
    drop: float
    """Share of the examples that the reference has right, less that of the file."""
    changed: int
    """Examples that only one of the two has right."""
    p_value: float
    """McNemar's exact test, two-sided."""


class ExamplesFacts(TypedDict):
    """The file of held-out examples."""

    file: str
    sha256: str


@dataclass(frozen=True)
class TaskFacts(TaskFigures):
    """The same with where the examples are from."""

    examples: ExamplesFacts


class QualityWithTask(QualityFacts, total=False):
    """The document of `pedsup-bench quality`, where `--examples` was given."""

    task: TaskFacts
