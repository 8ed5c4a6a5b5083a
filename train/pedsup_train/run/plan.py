"""A printable plan of a run, made before any weight is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pedsup.errors import BadFileError
from pedsup_train.data.examples import BadRow
from pedsup_train.data.held_out import held_out_row
from pedsup_train.data.prepare import Prepared, prepare
from pedsup_train.data.render import Rendered, Renderer, TokenStats, render_all
from pedsup_train.model import backends, base_source
from pedsup_train.model.backends import Runtime
from pedsup_train.model.sharding import refuse_unfit
from pedsup_train.model.versions import refuse_known_bad
from pedsup_train.recipe.schema import Recipe
from pedsup_train.run.split import Split, choose_split, room_here


@dataclass(frozen=True)
class Data:
    """Rendered parts, with what was left out and why."""

    prepared: Prepared
    train: tuple[Rendered, ...]
    evaluation: tuple[Rendered, ...]
    left_out: tuple[BadRow, ...]
    """Too long, or with a control token in the text."""
    held_out: tuple[dict[str, object], ...] = ()
    """The evaluation examples as lines of `held_out.jsonl`."""

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
    split: Split
    """Of a step's examples over forward passes, on this machine."""
    out: Path

    @property
    def work(self) -> Path:
        """Folder of checkpoints and live log, beside the adapter."""
        return self.out.with_name(f"{self.out.name}.run")


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
    rows = tuple(held_out_row(item.example, renderer) for item in evaluation if item.example)
    return Data(prepared, tuple(train), tuple(evaluation), (*bad, *bad_eval), rows)


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
        PedsupError: anything that would stop the run later is reported here.
    """
    backends.refuse_missing()
    refuse_unfit(recipe, prequantized=False)
    base_source.find_base(recipe)
    runtime = backends.choose_runtime(recipe)
    config = base_source.load_config(recipe)
    refuse_unfit(recipe, prequantized=base_source.is_prequantized(config))
    refuse_known_bad(config.model_type, backends.USED_PACKAGES[runtime.backend])
    data = load_data(recipe, base_source.load_tokenizer(recipe))
    processes = n_processes()
    steps = count_steps(recipe, len(data.train), processes)
    split = choose_split(recipe, runtime, config, data.train, room_here(runtime, processes))
    return Plan(recipe, runtime, data, config.model_type, steps, split, out)
