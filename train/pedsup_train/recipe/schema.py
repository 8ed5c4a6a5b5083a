"""A recipe: everything that decides a training run, as data.

Read from TOML into frozen dataclasses. An unknown key, a wrong type or a value out of range
is an error that names the key; every key can be overridden as `--set section.key=value`.
The resolved recipe is saved beside the adapter and can be given to `--recipe` again.
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

from pedsup.errors import UsageError

T = TypeVar("T")

Format = Literal["pairs", "medmcqa", "perumedqa", "casimedicos"]
Style = Literal["explain-first", "answer-first", "thought"]


@dataclass(frozen=True)
class ModelConfig:
    """The base and how it is held in memory."""

    base: str = ""
    """A local folder or a hub id."""
    revision: str = ""
    """Hub revision; empty: the newest, whose commit is then recorded."""
    quantization: Literal["none", "nf4"] = "none"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 on a GPU that has it, float32 on a CPU."""
    backend: Literal["auto", "unsloth", "transformers"] = "auto"
    attention: Literal["auto", "sdpa", "eager"] = "auto"


@dataclass(frozen=True)
class LoraConfig:
    """The adapter. `targets` are last parts of module names inside the language model."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.05
    targets: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    rslora: bool = False


@dataclass(frozen=True)
class SourceConfig:
    """One data source: a local file (`path`) or a data set of the hub (`hub`)."""

    format: Format = "pairs"
    path: str = ""
    """JSONL, JSON, CSV or parquet; `builtin:NAME` is a file shipped with pedsup."""
    hub: str = ""
    revision: str = ""
    config: str = ""
    split: str = "train"
    lang: str = ""
    """Language of the texts where the rows do not say it."""
    subject: str = ""
    """Keep only rows of this subject (case and accents ignored)."""
    limit: int = 0
    """Keep at most so many, chosen by the run's data seed; 0: all."""
    answer_base: Literal["auto", "0", "1"] = "auto"
    """What number the first option has in MedMCQA's `cop`: 1 in the authors' JSON, 0 on the hub."""


@dataclass(frozen=True)
class DataConfig:
    """Which examples, how rendered, and what is held out."""

    sources: tuple[SourceConfig, ...] = ()
    eval_sources: tuple[SourceConfig, ...] = ()
    """Evaluation data; without any, `eval_examples` are held out of `sources`."""
    eval_examples: int = 100
    max_length: int = 768
    """Tokens; longer examples are left out and counted, never cut in the answer."""
    style: Style = "explain-first"
    system_prompt: str = ""
    packing: bool = False
    max_bad_rows: int = 0
    """More bad rows than this refuse the run; each is reported by line either way."""
    seed: int = 3407


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation, in the names of transformers' `TrainingArguments`."""

    batch_size: int = 4
    accumulation: int = 4
    epochs: float = 3.0
    max_steps: int = 0
    """Stop after so many optimizer steps; 0: after `epochs`."""
    learning_rate: float = 2e-4
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 5
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    optimizer: Literal["adamw_8bit", "adamw"] = "adamw_8bit"
    gradient_checkpointing: bool = True
    group_by_length: bool = True
    """Batches of examples of like length: less padding."""
    log_every: int = 1
    eval_every: int = 50
    """Optimizer steps between evaluations; one is made before the first and after the last step."""
    save_every: int = 50
    quantize: Literal["none", "Q4_0", "Q4_K_M"] = "none"
    """Compute with the weights as a file of this type will hold them: what ships is trained."""
    quantize_every: int = 5
    """Optimizer steps between new block scales of `quantize`."""
    seed: int = 3407


@dataclass(frozen=True)
class Recipe:
    """All of it."""

    name: str = "unnamed"
    description: str = ""
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def builtin_names() -> list[str]:
    """Names of the recipes shipped with pedsup."""
    folder = resources.files("pedsup_train") / "recipes"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith("toml"))


def read_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """A shipped recipe by name, or a TOML file by path, with `section.key=value` overrides.

    Raises:
        UsageError: no such recipe, no TOML, an unknown key, a wrong type or a bad value.
    """
    path = Path(name_or_path)
    if name_or_path in builtin_names():
        text = (resources.files("pedsup_train") / "recipes" / f"{name_or_path}.toml").read_text(
            encoding="utf-8"
        )
    elif path.is_file():
        text = path.read_text(encoding="utf-8-sig")
    else:
        raise UsageError(
            f"no recipe '{name_or_path}'",
            wanted=f"a TOML file, or one of: {', '.join(builtin_names())}",
        )
    try:
        tree = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the recipe is not TOML: {error}", where=name_or_path) from error
    for override in overrides:
        _override(tree, override)
    recipe = _build(Recipe, tree, where=name_or_path, prefix="")
    check(recipe, where=name_or_path)
    return recipe


def _override(tree: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign:
        raise UsageError(f"--set {override}", wanted="section.key=value")
    *sections, last = key.strip().split(".")
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text  # a bare word or a path: a string
    node = tree
    for section in sections:
        node = _child(node, section, override)
    node[last] = value


def _child(node: dict[str, Any], section: str, override: str) -> dict[str, Any]:
    """The table `section` of `node`, made if absent; `name[i]` is an entry of a list of tables."""
    name, bracket, rest = section.partition("[")
    child: Any = node.setdefault(name, {})
    if bracket:
        index = rest.removesuffix("]")
        if not isinstance(child, list) or not index.isdecimal() or int(index) >= len(child):
            length = len(child) if isinstance(child, list) else 0
            raise UsageError(
                f"--set {override}",
                wanted=f"{name}[0] to {name}[{length - 1}]" if length else f"a list '{name}'",
            )
        child = child[int(index)]
    if not isinstance(child, dict):
        raise UsageError(f"--set {override}", wanted="a key that is no table's child")
    return child


def _build(cls: type[T], tree: Mapping[str, Any], *, where: str, prefix: str) -> T:
    hints = typing.get_type_hints(cls)
    unknown = sorted(tree.keys() - hints.keys())
    if unknown:
        raise UsageError(
            f"unknown key '{prefix}{unknown[0]}'",
            where=where,
            wanted=f"one of: {', '.join(prefix + name for name in hints)}",
        )
    values = {
        key: _convert(hints[key], value, where=where, key=prefix + key)
        for key, value in tree.items()
    }
    return cls(**values)


def _convert(hint: Any, value: Any, *, where: str, key: str) -> Any:
    """`value` as the annotated type; ints are taken for floats, numbers for nothing else."""
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, Mapping):
            return _build(hint, value, where=where, prefix=f"{key}.")
    elif origin is Literal:
        choices = typing.get_args(hint)
        if str(value) in choices:
            return str(value)
        raise UsageError(
            f"{key} = {value!r}", where=where, wanted="one of: " + ", ".join(map(str, choices))
        )
    elif origin is tuple:
        inner = typing.get_args(hint)[0]
        if isinstance(value, list):
            return tuple(
                _convert(inner, item, where=where, key=f"{key}[{i}]")
                for i, item in enumerate(value)
            )
    elif hint is float and type(value) is int:
        return float(value)
    elif type(value) is hint:
        return value
    wanted = hint.__name__ if isinstance(hint, type) else str(hint)
    if isinstance(hint, types.GenericAlias):
        wanted = "a list"
    raise UsageError(f"{key} = {value!r}", where=where, wanted=f"a value of type {wanted}")


def _grid_rules(recipe: Recipe) -> list[tuple[bool, str, str]]:
    """What training on a file's grid asks of the rest of a recipe."""
    model, train = recipe.model, recipe.train
    if train.quantize == "none":
        return []
    why = f"with train.quantize = {train.quantize!r}"
    return [
        (model.quantization == "none", "model.quantization", f"none {why}: the export has no NF4"),
        (model.backend != "unsloth", "model.backend", f"transformers {why}"),
        (recipe.lora.dropout == 0, "lora.dropout", f"0 {why}: a merged weight has no dropout"),
        (
            train.save_every % train.quantize_every == 0,
            "train.save_every",
            f"a multiple of train.quantize_every {why}, for a resumed run to be the same",
        ),
    ]


def check(recipe: Recipe, *, where: str) -> None:
    """Ranges and combinations that the types cannot say.

    Raises:
        UsageError: naming the key.
    """
    train, lora, data = recipe.train, recipe.lora, recipe.data
    rules = [
        (lora.r >= 1, "lora.r", "1 or more"),
        (lora.alpha >= 1, "lora.alpha", "1 or more"),
        (0 <= lora.dropout < 1, "lora.dropout", "from 0 to below 1"),
        (len(lora.targets) > 0, "lora.targets", "at least one projection"),
        (train.batch_size >= 1, "train.batch_size", "1 or more"),
        (train.accumulation >= 1, "train.accumulation", "1 or more"),
        (train.epochs > 0 or train.max_steps > 0, "train.epochs", "above 0, or train.max_steps"),
        (train.max_steps >= 0, "train.max_steps", "0 or more"),
        (train.learning_rate > 0, "train.learning_rate", "above 0"),
        (train.warmup_steps >= 0, "train.warmup_steps", "0 or more"),
        (train.max_grad_norm > 0, "train.max_grad_norm", "above 0"),
        (train.log_every >= 1, "train.log_every", "1 or more"),
        (train.eval_every >= 1, "train.eval_every", "1 or more"),
        (train.save_every >= 1, "train.save_every", "1 or more"),
        (train.quantize_every >= 1, "train.quantize_every", "1 or more"),
        (data.max_length >= 16, "data.max_length", "16 or more"),
        (data.eval_examples >= 0, "data.eval_examples", "0 or more"),
        (data.max_bad_rows >= 0, "data.max_bad_rows", "0 or more"),
        *_grid_rules(recipe),
        (not data.packing, "data.packing", "false: packing is not supported, see docs/train.md"),
    ]
    for holds, key, wanted in rules:
        if not holds:
            section, name = key.split(".")
            value = getattr(getattr(recipe, section), name)
            raise UsageError(f"{key} = {value!r}", where=where, wanted=wanted)
    for kind in ("sources", "eval_sources"):
        for i, source in enumerate(getattr(data, kind)):
            if bool(source.path) == bool(source.hub):
                found = "both a file and" if source.path else "neither a file nor"
                raise UsageError(
                    f"data.{kind}[{i}] names {found} a data set of the hub",
                    where=where,
                    wanted='path = "..." or hub = "..."',
                    remedy=f"to read the file: --set data.{kind}[{i}].hub="
                    if source.path
                    else None,
                )
