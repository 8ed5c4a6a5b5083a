"""What the commands print: plan, data, preview and result, as text."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pedsup.texts.intended_use import SHORT
from pedsup_train.data.render import Rendered, TokenStats
from pedsup_train.run.plan import Data, Plan

SHOWN_BAD_ROWS = 10


def plan_lines(plan: Plan) -> list[str]:
    """The plan of a run, for stderr."""
    recipe, runtime = plan.recipe, plan.runtime
    train, lora, split = recipe.train, recipe.lora, plan.split
    held = "4 bit (NF4)" if recipe.model.quantization == "nf4" else runtime.dtype
    lines = [
        f"recipe {recipe.name}: {recipe.model.base} ({plan.model_type}) in {held}",
        f"backend {runtime.backend} on {runtime.device}, computing in {runtime.dtype},"
        f" {runtime.optimizer}",
        f"LoRA r {lora.r}, alpha {lora.alpha}, dropout {lora.dropout} on {', '.join(lora.targets)}",
        f"{plan.steps} steps of {split.batch_size} x {split.passes} examples,"
        f" {train.learning_rate:g} {train.schedule} after {train.warmup_steps} warm-up steps",
        f"adapter goes to {plan.out}, checkpoints to {plan.work}",
    ]
    if split.passes != train.accumulation:
        lines.append(
            f"note: the GPU has room for {split.batch_size} examples at a time instead of"
            f" {train.batch_size}: the same steps, in less time"
        )
    lines += [f"note: {note}" for note in runtime.notes]
    return lines + data_lines(plan.data)


def data_lines(data: Data) -> list[str]:
    """Counts, bad rows by place, and token statistics, for stderr."""
    prepared = data.prepared
    lines = []
    for kind, results in (("train", prepared.sources), ("eval", prepared.eval_sources)):
        for result in results:
            lines.append(
                f"{kind} data {result.name}: {result.rows} rows, {len(result.examples)} used,"
                f" {result.other_subject} of other subjects, {len(result.bad)} bad,"
                f" {result.over_limit} over the limit"
            )
            lines += [f"  {note}" for note in result.notes]
            lines += [f"  bad: {row.where}: {row.reason}" for row in result.bad[:SHOWN_BAD_ROWS]]
            if len(result.bad) > SHOWN_BAD_ROWS:
                more = len(result.bad) - SHOWN_BAD_ROWS
                lines.append(f"  bad: ... and {more} more (--json lists them all)")
    lines.append(
        f"removed: {prepared.duplicates} duplicates, {prepared.conflicts} with conflicting"
        f" answers, {prepared.overlap} in the evaluation part, {prepared.near_overlap} nearly so"
    )
    lines += [f"  left out: {row.where}: {row.reason}" for row in data.left_out[:SHOWN_BAD_ROWS]]
    if len(data.left_out) > SHOWN_BAD_ROWS:
        lines.append(f"  left out: ... {len(data.left_out)} in all (--json lists them)")
    train, evaluation = data.stats
    return [*lines, _stats_line("training", train), _stats_line("held out", evaluation)]


def _stats_line(name: str, stats: TokenStats) -> str:
    return (
        f"{name}: {stats.n} examples, {stats.total:,} tokens ({stats.answer:,} in answers);"
        f" lengths {stats.shortest} to {stats.longest}, median {stats.median}, 95 % {stats.p95}"
    )


def preview(data: Data, n: int = 3) -> str:
    """`n` training examples as the model will see them, of each source in turn, for stdout."""
    by_source: dict[str, list[Rendered]] = {}
    for item in data.train:
        by_source.setdefault(item.source, []).append(item)
    turns = [item for turn in zip_longest(*by_source.values()) for item in turn if item]
    return "\n\n".join(_one(i, item) for i, item in enumerate(turns[:n], 1))


def _one(number: int, item: Rendered) -> str:
    answered = len(item.input_ids) - item.n_prompt
    return (
        f"---- example {number}, {item.source}: {item.n_prompt} tokens of prompt, no loss ----\n"
        f"{item.prompt}\n---- {answered} tokens of answer, with loss ----\n{item.answer}"
    )


def result_text(out: Path, facts: Mapping[str, Any]) -> str:
    """The result of a run, for stdout."""
    lines = [
        f"adapter   {out}",
        f"sha256    {facts['files']['adapter_model.safetensors']}",
        f"steps     {facts['steps']}, {facts['tokens_seen']:,} tokens in {facts['seconds']:.0f} s",
        f"loss      {facts['loss_first_tenth']:.4f} (first tenth of the steps)"
        f" -> {facts['loss_last_tenth']:.4f} (last tenth)",
    ]
    if facts["eval_loss_before"] is not None:
        lines.append(
            f"held out  {facts['eval_loss_before']:.4f} before"
            f" -> {facts['eval_loss_after']:.4f} after"
        )
    return "\n".join([*lines, SHORT["en"]])
