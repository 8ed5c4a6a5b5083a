"""A file and its reference on the same held-out examples."""

from __future__ import annotations

from pathlib import Path

from pedsup.files.fsio import sha256_file
from pedsup_bench.task.report import figures
from pedsup_bench.task.score import TaskPlan, score_all


def measure(model: Path, reference: Path, examples: Path, plan: TaskPlan) -> dict[str, object]:
    """The figures for a document; `examples` is the file that those of the plan were read from.

    Raises:
        PedsupError: as `score_all`.
    """
    theirs, mine = score_all(reference, plan), score_all(model, plan, plan.adapter)
    identity = {"file": examples.name, "sha256": sha256_file(examples)}
    return {"examples": identity, **figures(mine, theirs).to_json()}
