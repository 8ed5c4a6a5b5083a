"""transformers' `Trainer` with our order of data, held-out loss, log and progress bar."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pedsup.optional import require
from pedsup_train.data.batches import Collator, EpochSampler
from pedsup_train.data.render import IGNORE, Rendered
from pedsup_train.model.backends import Loaded, Runtime
from pedsup_train.model.grid_layers import GridLayers
from pedsup_train.model.sharding import keep_head_whole, name_units
from pedsup_train.recipe.schema import Recipe

LIVE_LOG = "log.jsonl"


def training_arguments(recipe: Recipe, runtime: Runtime, work: Path, *, evaluate: bool) -> Any:
    """The recipe in transformers' words."""
    transformers = require("transformers", extra="train")
    train = recipe.train
    return transformers.TrainingArguments(
        output_dir=str(work),
        per_device_train_batch_size=train.batch_size,
        per_device_eval_batch_size=train.batch_size,
        gradient_accumulation_steps=train.accumulation,
        num_train_epochs=train.epochs,
        max_steps=train.max_steps or -1,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.schedule,
        warmup_steps=train.warmup_steps,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        optim=runtime.optimizer,
        bf16=runtime.dtype == "bfloat16",
        fp16=runtime.dtype == "float16",
        use_cpu=runtime.device == "cpu",
        logging_strategy="steps",
        logging_steps=train.log_every,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if evaluate else "no",
        eval_steps=train.eval_every,
        save_strategy="steps",
        save_steps=train.save_every,
        save_total_limit=2,
        seed=train.seed,
        data_seed=train.seed,
        remove_unused_columns=False,
        dataloader_pin_memory=runtime.device == "cuda",
        include_num_input_tokens_seen="non_padding",
        label_names=["labels"],
        ddp_find_unused_parameters=False,
        disable_tqdm=True,
        report_to="none",
    )


def make_trainer(
    recipe: Recipe,
    runtime: Runtime,
    loaded: Loaded,
    parts: tuple[Sequence[Rendered], Sequence[Rendered]],
    work: Path,
) -> Any:
    transformers: Any = require("transformers", extra="train")
    name_units(loaded.model)
    train, evaluation = ([item.feature() for item in part] for part in parts)
    arguments = training_arguments(recipe, runtime, work, evaluate=bool(evaluation))
    at_once = recipe.train.batch_size * arguments.world_size
    sampler = EpochSampler(
        [len(item["input_ids"]) for item in train],
        step_size=at_once * recipe.train.accumulation,
        seed=recipe.train.seed,
        by_length=recipe.train.group_by_length,
        multiple=at_once if arguments.world_size > 1 else 1,
    )
    trainer = _ordered_trainer(transformers.Trainer, sampler)(
        model=loaded.model,
        args=arguments,
        train_dataset=[*train, filler(train)],
        eval_dataset=whole_batches(evaluation, recipe.train.batch_size, arguments.world_size),
        data_collator=Collator(loaded.tokenizer.pad_token_id),
        compute_metrics=mean_over_tokens,
    )
    trainer.grids, trainer.refit_every = loaded.grids, recipe.train.quantize_every
    # With the bar off transformers prints each row to stdout, which belongs to results.
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.follower = _follower(transformers.TrainerCallback, trainer, sampler, work)
    trainer.add_callback(trainer.follower)
    return trainer


def whole_batches(
    features: Sequence[dict[str, list[int]]], batch_size: int, processes: int
) -> list[dict[str, list[int]]] | None:
    """Evaluation data that several processes can share out evenly; None if there is none.

    accelerate would repeat the first examples to fill the last round, and count them twice. What is
    added here has no label, so it has no loss.
    """
    if not features:
        return None
    missing = -len(features) % (batch_size * processes) if processes > 1 else 0
    return [*features, *[filler(features)] * missing]


def filler(features: Sequence[dict[str, list[int]]]) -> dict[str, list[int]]:
    """A row without a loss, as short as the shortest, for a process that has no example left."""
    ids = min((feature["input_ids"] for feature in features), key=len)
    return {"input_ids": ids, "labels": [IGNORE] * len(ids)}


def mean_over_tokens(batches: Any) -> dict[str, float]:
    """The held-out loss: nats of all batches by their target tokens, however they were batched.

    Args:
        batches: what `prediction_step` returned; the mean takes the name `eval_loss` from
            `Trainer`'s prefix.
    """
    return {"loss": float(batches.predictions.sum() / max(1, batches.label_ids.sum()))}


def _ordered_trainer(base: Any, sampler: EpochSampler) -> Any:
    """`Trainer` with our sampler, and the elapsed time in each row of the log."""

    class OrderedTrainer(base):
        began = time.monotonic()
        grids: GridLayers | None = None
        refit_every = 1
        before = 0.0
        """Seconds that earlier sessions of a resumed run took."""

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return sampler

        def evaluate(self, *args: Any, **kwargs: Any) -> Any:
            if self.grids is not None:
                self.grids.refit()  # what is evaluated is what would ship
            return super().evaluate(*args, **kwargs)

        def prediction_step(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
            """Nats and target tokens of a batch, in the places of logits and labels."""
            torch = require("torch", extra="train")
            inputs = self._prepare_inputs(inputs)
            count = (inputs["labels"][:, 1:] != IGNORE).sum().reshape(1)
            with torch.no_grad(), self.compute_loss_context_manager():
                mean = model(**inputs).loss.detach().double().reshape(1)
            return None, torch.where(count > 0, mean * count, 0.0), count

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            elapsed = self.before + time.monotonic() - self.began
            super().log({**logs, "elapsed_s": round(elapsed, 3)}, start_time)

    return OrderedTrainer


def _follower(base: Any, trainer: Any, sampler: EpochSampler, work: Path) -> Any:
    """The callback that sets the sampler's epoch and keeps the bar and the live log."""

    class Follower(base):
        bar: Any = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            keep_head_whole(trainer.model)
            trainer.began = time.monotonic()
            trainer.before = max((r.get("elapsed_s", 0.0) for r in state.log_history), default=0.0)
            if state.is_world_process_zero:
                write_jsonl(work / LIVE_LOG, state.log_history)
                self.bar = _step_bar(state.max_steps, state.global_step)

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            sampler.epoch = int(state.epoch or 0)

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if trainer.grids is not None and state.global_step % trainer.refit_every == 0:
                trainer.grids.refit()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if self.bar is not None:
                self.bar.update(state.global_step - self.bar.n)

        def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if self.bar is None:
                return
            row = state.log_history[-1]
            with (work / LIVE_LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            if shown := {k: f"{row[k]:.3f}" for k in ("loss", "eval_loss") if k in row}:
                self.bar.set_postfix(shown, refresh=False)

        def close(self) -> None:
            if self.bar is not None:
                self.bar.close()

    return Follower()


def _step_bar(total: int, done: int) -> Any:
    return tqdm(
        total=total,
        initial=done,
        desc="training",
        unit="step",
        file=sys.stderr,
        mininterval=0.5 if sys.stderr.isatty() else 10.0,
        dynamic_ncols=True,
    )


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
