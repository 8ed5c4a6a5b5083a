"""Figures of a task from its examples, the file's beside the reference's."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from pathlib import Path

import numpy as np

from pedsup.errors import MismatchError
from pedsup.files.fsio import sha256_file
from pedsup.questions.dialogues import read_dialogues
from pedsup_bench.stats import mcnemar_exact
from pedsup_bench.task.result import ExamplesFacts, Side, TaskFacts, TaskFigures
from pedsup_bench.task.score import ExampleScore, TaskPlan, score_all


def measure(model: Path, reference: Path, examples: Path, plan: TaskPlan) -> TaskFacts:
    """The figures for a document; `examples` is the file that those of the plan were read from.

    Raises:
        MismatchError: the file was changed since.
        PedsupError: as `score_all`.
    """
    identity: ExamplesFacts = {"file": examples.name, "sha256": sha256_file(examples)}
    if read_dialogues(examples) != plan.examples:
        raise MismatchError(
            "the examples were changed after they were read",
            where=examples,
            wanted="the file as it was",
            remedy="run it again",
        )
    theirs, mine = score_all(reference, plan), score_all(model, plan, plan.adapter)
    return TaskFacts(**vars(figures(mine, theirs)), examples=identity)


def figures(scored: Sequence[ExampleScore], reference: Sequence[ExampleScore]) -> TaskFigures:
    """Summarize at least one example; both have the same examples in the same order."""
    pairs = list(zip(scored, reference, strict=True))
    n_tokens = sum(r.n_tokens for r in reference)
    mine, theirs = _side(scored, n_tokens), _side(reference, n_tokens)
    only_model = sum(a.right and not b.right for a, b in pairs)
    only_reference = sum(b.right and not a.right for a, b in pairs)
    return TaskFigures(
        n=len(pairs),
        n_tokens=n_tokens,
        n_choice=sum(r.option is not None for r in reference),
        model=mine,
        reference=theirs,
        loss_rise=mine.loss - theirs.loss,
        loss_rise_error=_ratio_error(
            [a.nats - b.nats for a, b in pairs], [b.n_tokens for _, b in pairs]
        ),
        drop=theirs.right - mine.right,
        changed=only_model + only_reference,
        p_value=mcnemar_exact(only_model, only_reference),
    )


def _side(scored: Sequence[ExampleScore], n_tokens: int) -> Side:
    return Side(
        loss=sum(s.nats for s in scored) / n_tokens,
        token_accuracy=sum(s.right_tokens for s in scored) / sum(s.n_tokens for s in scored),
        exact=sum(s.exact for s in scored) / len(scored),
        right=sum(s.right for s in scored) / len(scored),
    )


def _ratio_error(nats: Sequence[float], tokens: Sequence[int]) -> float | None:
    """Standard error of sum(nats) / sum(tokens) over examples (linearized ratio estimator)."""
    x, n = np.asarray(nats), np.asarray(tokens, np.float64)
    if len(x) < 2:
        return None
    rest = x - x.sum() / n.sum() * n
    return float(sqrt(len(x) / (len(x) - 1) * np.square(rest).sum()) / n.sum())
