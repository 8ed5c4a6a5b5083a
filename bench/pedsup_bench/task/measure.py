"""A file and its reference on the same held-out examples."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from pedsup.errors import MismatchError
from pedsup.files.fsio import sha256_file
from pedsup.questions.dialogues import read_dialogues
from pedsup_bench.task.report import figures
from pedsup_bench.task.score import TaskPlan, score_all


def measure(model: Path, reference: Path, examples: Path, plan: TaskPlan) -> dict[str, object]:
    """The figures for a document; `examples` is the file that those of the plan were read from.

    Raises:
        MismatchError: the file was changed since.
        PedsupError: as `score_all`.
    """
    identity = {"file": examples.name, "sha256": sha256_file(examples)}
    if read_dialogues(examples) != plan.examples:
        raise MismatchError(
            "the examples were changed after they were read",
            where=examples,
            wanted="the file as it was",
            remedy="run it again",
        )
    theirs, mine = score_all(reference, plan), score_all(model, plan, plan.adapter)
    return {"examples": identity, **asdict(figures(mine, theirs))}
