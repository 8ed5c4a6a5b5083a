"""What was measured, as one document: for the card, for `--json`, for the exporter."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pedsup_train.data.examples import ReadResult
from pedsup_train.model import base_source
from pedsup_train.model.versions import recorded
from pedsup_train.run.loop import Outcome
from pedsup_train.run.plan import Data, Plan, n_processes

Facts: TypeAlias = Mapping[str, Any]
"""The document of `result_facts`."""


@dataclass(frozen=True)
class Checked:
    """What the probes before the first step measured."""

    forward_difference: float
    """Of training and inference logits, as a share of their spread."""
    gradient_cosine: float | None
    """Lowest cosine of an adapter's gradients with and without checkpointing; None: it is off."""


@dataclass(frozen=True)
class Result:
    """A finished run."""

    plan: Plan
    outcome: Outcome
    n_trainable: int
    n_targets: int
    checked: Checked
    digests: dict[str, str]
    """SHA-256 of the adapter's files."""
    base_digest: str | None = None
    """Of a base in a local folder; the hub's have a commit."""


def _part(result: ReadResult) -> dict[str, object]:
    return {
        "name": result.name,
        "digest": result.digest,
        "rows": result.rows,
        "used": len(result.examples),
        "bad": len(result.bad),
        "bad_rows": [f"{row.where}: {row.reason}" for row in result.bad],
        "other_subject": result.other_subject,
        "over_limit": result.over_limit,
        "notes": result.notes,
    }


def data_facts(data: Data) -> dict[str, object]:
    """Counts and digests of the data, for the card and for `pedsup-train data --json`."""
    train, evaluation = data.stats
    prepared = data.prepared
    return {
        "digest": prepared.digest,
        "sources": [_part(result) for result in prepared.sources],
        "eval_sources": [_part(result) for result in prepared.eval_sources],
        "duplicates": prepared.duplicates,
        "conflicting_answers": prepared.conflicts,
        "overlap": prepared.overlap,
        "near_overlap": prepared.near_overlap,
        "left_out": [f"{row.where}: {row.reason}" for row in data.left_out],
        "train_tokens": vars(train),
        "eval_tokens": vars(evaluation),
    }


def result_facts(result: Result) -> dict[str, object]:
    """The measured facts of a run as one document."""
    plan, outcome = result.plan, result.outcome
    losses = [row for row in outcome.history if "loss" in row]
    evals = [row for row in outcome.history if "eval_loss" in row]
    tenth = max(1, len(losses) // 10)
    return {
        "base": plan.recipe.model.base,
        "base_digest": result.base_digest,
        "base_revision": base_source.base_commit(base_source.load_config(plan.recipe), plan.recipe),
        "model_type": plan.model_type,
        "backend": plan.runtime.backend,
        "device": plan.runtime.device,
        "dtype": plan.runtime.dtype,
        "optimizer": plan.runtime.optimizer,
        "targets": result.n_targets,
        "trainable_parameters": result.n_trainable,
        "forward_difference": result.checked.forward_difference,
        "gradient_cosine": result.checked.gradient_cosine,
        "epochs": max((row.get("epoch", 0.0) for row in outcome.history), default=0.0),
        "steps": outcome.steps,
        "processes": n_processes(),
        "examples_per_pass": plan.split.batch_size,
        "passes_per_step": plan.split.passes,
        "tokens_seen": outcome.tokens_seen,
        "seconds": round(outcome.seconds, 1),
        "peak_gpu_bytes": outcome.peak_gpu_bytes,
        "loss_first_tenth": _mean([row["loss"] for row in losses[:tenth]]),
        "loss_last_tenth": _mean([row["loss"] for row in losses[-tenth:]]),
        "eval_loss_before": evals[0]["eval_loss"] if evals else None,
        "eval_loss_after": evals[-1]["eval_loss"] if evals else None,
        "data": data_facts(plan.data),
        "versions": recorded(),
        "files": result.digests,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
