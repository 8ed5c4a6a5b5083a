"""A run: a printable plan, then the doing of it, and an adapter folder at the end."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pedsup.errors import BadFileError, MismatchError, OutputError
from pedsup.fsio import sha256_file
from pedsup.optional import require
from pedsup.progress import say
from pedsup_train import backends
from pedsup_train.backends import Loaded, Runtime
from pedsup_train.card import write_card
from pedsup_train.curves import write_csv, write_png
from pedsup_train.examples import BadRow
from pedsup_train.folders import atomic_folder, refuse_filled
from pedsup_train.loop import Outcome, fit, out_of_memory, write_jsonl
from pedsup_train.prepare import Prepared, prepare
from pedsup_train.recipe import Recipe, to_toml
from pedsup_train.render import Rendered, Renderer, TokenStats, render_all
from pedsup_train.versions import recorded, refuse_known_bad

IDENTITY: Final = "run.json"
"""In the work folder: what a resumed run must have in common with the one it continues."""
ADAPTER_FILES: Final = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class Data:
    """Rendered parts, with what was left out and why."""

    prepared: Prepared
    train: tuple[Rendered, ...]
    evaluation: tuple[Rendered, ...]
    left_out: tuple[BadRow, ...]
    """Too long, or with a control token in the text."""

    @property
    def stats(self) -> tuple[TokenStats, TokenStats]:
        return TokenStats.of(self.train), TokenStats.of(self.evaluation)


@dataclass(frozen=True)
class Plan:
    """What a run will do, before any weight is loaded."""

    recipe: Recipe
    runtime: Runtime
    data: Data
    model_type: str
    steps: int
    out: Path

    @property
    def work(self) -> Path:
        """Folder of checkpoints and live log, beside the adapter."""
        return self.out.with_name(f"{self.out.name}.run")


@dataclass(frozen=True)
class Result:
    """A finished run."""

    plan: Plan
    outcome: Outcome
    n_trainable: int
    n_targets: int
    forward_difference: float
    digests: dict[str, str]
    """SHA-256 of the adapter's files."""


def load_data(recipe: Recipe, tokenizer: Any) -> Data:
    """Read, clean, split and render the recipe's data.

    Raises:
        UsageError, BadFileError, UnsupportedError: as `prepare` and `Renderer`.
    """
    prepared = prepare(recipe.data)
    renderer = Renderer(tokenizer, recipe.data)
    train, bad = render_all(renderer, prepared.train, recipe.data.max_length)
    evaluation, bad_eval = render_all(renderer, prepared.evaluation, recipe.data.max_length)
    if not train:
        raise BadFileError(
            f"no example fits: {bad[0].where}: {bad[0].reason}",
            remedy="raise data.max_length",
        )
    return Data(prepared, tuple(train), tuple(evaluation), (*bad, *bad_eval))


def n_processes() -> int:
    """Processes of this run: more than one under `accelerate launch`."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes and prints (the only one, or the first of several)."""
    return int(os.environ.get("RANK", "0")) == 0


def count_steps(recipe: Recipe, n_examples: int, processes: int = 1) -> int:
    """Optimizer steps of a run, as `Trainer` counts them."""
    if recipe.train.max_steps:
        return recipe.train.max_steps
    batches = -(-n_examples // (recipe.train.batch_size * processes))
    per_epoch = -(-batches // recipe.train.accumulation)
    return int(-(-recipe.train.epochs * per_epoch // 1))


def make_plan(recipe: Recipe, out: Path) -> Plan:
    """Decide everything that can be decided without the weights.

    Raises:
        PedsupError: anything that would stop the run later is said here.
    """
    backends.refuse_missing()
    runtime = backends.choose_runtime(recipe)
    config = backends.load_config(recipe)
    refuse_known_bad(config.model_type, backends.USED_PACKAGES[runtime.backend])
    data = load_data(recipe, backends.load_tokenizer(recipe))
    steps = count_steps(recipe, len(data.train), n_processes())
    return Plan(recipe, runtime, data, config.model_type, steps, out)


def run(plan: Plan, *, resume: bool = False, force: bool = False, keep: bool = False) -> Result:
    """Train and write the adapter folder.

    Args:
        resume: continue from the newest checkpoint in the work folder.
        force: replace an existing adapter, and drop the checkpoints of an earlier run.
        keep: keep the work folder afterwards.

    Raises:
        OutputError: the adapter or unfinished work exists and neither flag was given.
        MismatchError: `resume`, and the recipe or the data are not those of the checkpoint.
        ResourceError: out of memory.
    """
    transformers = require("transformers", extra="train")
    refuse_filled(plan.out, force=force)
    checkpoint = _open_work(plan, resume=resume, force=force) if is_main() else None
    _wait_for_all(plan.runtime)
    if not is_main() and resume:
        checkpoint = newest_checkpoint(plan.work)
    transformers.set_seed(plan.recipe.train.seed)
    _say(f"loading {plan.recipe.model.base}")
    try:
        loaded = backends.load(plan.recipe, plan.runtime)
        difference = backends.check_forward(loaded.model, loaded.tokenizer)
    except (MemoryError, RuntimeError) as error:
        if advice := out_of_memory(error, plan.recipe):
            raise advice from error
        raise
    _say(_loaded_line(loaded))
    # Loading and checking drew random numbers; training starts from the seed whatever they drew.
    transformers.set_seed(plan.recipe.train.seed)
    parts = (plan.data.train, plan.data.evaluation)
    outcome = fit(plan.recipe, plan.runtime, loaded, parts, plan.work, checkpoint)
    _wait_for_all(plan.runtime)
    if not is_main():
        return Result(plan, outcome, loaded.n_trainable, len(loaded.targets.names), difference, {})
    result = _publish(plan, loaded, outcome, difference, force=force)
    if not keep:
        shutil.rmtree(plan.work, ignore_errors=True)
    return result


def _say(text: str) -> None:
    if is_main():
        say(text)


def _wait_for_all(runtime: Runtime) -> None:
    """Let the processes of a distributed run meet; nothing in a single one."""
    if n_processes() > 1:
        accelerate = require("accelerate", extra="train")
        accelerate.PartialState(cpu=runtime.device == "cpu").wait_for_everyone()


def _loaded_line(loaded: Loaded) -> str:
    plan = loaded.targets
    line = f"LoRA on {len(plan.names)} projections, {loaded.n_trainable:,} parameters"
    if plan.dead:
        line += f"; {len(plan.dead)} K/V projections of KV-shared layers left alone"
    if plan.towers:
        line += f"; {len(plan.towers)} projections of towers left alone"
    return line


def _identity(plan: Plan) -> dict[str, str]:
    return {
        "recipe": to_toml(plan.recipe),
        "data": plan.data.prepared.digest,
        "backend": plan.runtime.backend,
        "dtype": plan.runtime.dtype,
    }


def _open_work(plan: Plan, *, resume: bool, force: bool) -> Path | None:
    """Make or reopen the work folder; the checkpoint to continue from, if any."""
    work, identity = plan.work, _identity(plan)
    checkpoint = newest_checkpoint(work)
    if resume and checkpoint is not None:
        before = json.loads((work / IDENTITY).read_text(encoding="utf-8"))
        if differing := [key for key in identity if before.get(key) != identity[key]]:
            raise MismatchError(
                f"the run to resume had another {' and another '.join(differing)}",
                where=work,
                wanted="the same recipe, data and backend",
                remedy="resume with the same command, or start anew with --force",
            )
        say(f"resuming after step {checkpoint.name.rpartition('-')[2]}")
        return checkpoint
    if resume:
        say("no checkpoint to resume from: starting at step 0")
    elif checkpoint is not None and not force:
        raise OutputError(
            "an unfinished run is here",
            where=work,
            remedy="continue it with --resume, or start anew with --force",
        )
    if work.exists():
        shutil.rmtree(work)
    work.mkdir(parents=True)
    (work / IDENTITY).write_text(json.dumps(identity, indent=1), encoding="utf-8")
    return None


def newest_checkpoint(work: Path) -> Path | None:
    """The complete checkpoint of the highest step (the trainer's state is written last)."""
    found = [p for p in work.glob("checkpoint-*") if (p / "trainer_state.json").is_file()]
    return max(found, key=lambda p: int(p.name.rpartition("-")[2]), default=None)


def check_adapter_file(path: Path) -> None:
    """Refuse an adapter that holds NaN or Inf, or in which nothing was learnt.

    Raises:
        BadFileError: naming the tensor.
    """
    torch = require("torch", extra="train")
    tensors = require("safetensors.torch", extra="train").load_file(path)
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise BadFileError(
                f"tensor '{name}' of the trained adapter holds NaN or Inf",
                where=path,
                remedy="lower train.learning_rate, or train in bfloat16 or float32",
            )
    if not any(tensor.any() for name, tensor in tensors.items() if "lora_B" in name):
        raise BadFileError("all lora_B are zero: nothing was learnt", where=path)


def _publish(
    plan: Plan, loaded: Loaded, outcome: Outcome, difference: float, *, force: bool
) -> Result:
    recipe = plan.recipe
    with atomic_folder(plan.out, force=force) as folder:
        loaded.model.save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card; ours has facts
        check_adapter_file(folder / ADAPTER_FILES[1])
        (folder / "recipe.toml").write_text(to_toml(recipe), encoding="utf-8")
        write_jsonl(folder / "training_log.jsonl", outcome.history)
        write_csv(folder / "training_log.csv", outcome.history)
        write_png(folder / "training_curves.png", outcome.history, f"{recipe.name}: training")
        digests = {name: sha256_file(folder / name) for name in ADAPTER_FILES}
        result = Result(
            plan, outcome, loaded.n_trainable, len(loaded.targets.names), difference, digests
        )
        facts = result_facts(result)
        (folder / "training.json").write_text(
            json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        write_card(folder / "adapter_card.md", recipe, facts)
    return result


def _part(result: Any) -> dict[str, Any]:
    return {
        "name": result.name,
        "digest": result.digest,
        "rows": result.rows,
        "used": len(result.examples),
        "bad": len(result.bad),
        "other_subject": result.other_subject,
        "over_limit": result.over_limit,
        "notes": result.notes,
    }


def data_facts(data: Data) -> dict[str, Any]:
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


def result_facts(result: Result) -> dict[str, Any]:
    """The measured facts of a run as one document."""
    plan, outcome = result.plan, result.outcome
    losses = [row for row in outcome.history if "loss" in row]
    evals = [row for row in outcome.history if "eval_loss" in row]
    tenth = max(1, len(losses) // 10)
    return {
        "base": plan.recipe.model.base,
        "base_revision": backends.base_commit(backends.load_config(plan.recipe), plan.recipe),
        "model_type": plan.model_type,
        "backend": plan.runtime.backend,
        "device": plan.runtime.device,
        "dtype": plan.runtime.dtype,
        "optimizer": plan.runtime.optimizer,
        "targets": result.n_targets,
        "trainable_parameters": result.n_trainable,
        "forward_difference": result.forward_difference,
        "steps": outcome.steps,
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
