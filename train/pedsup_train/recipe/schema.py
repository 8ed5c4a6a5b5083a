"""A recipe: everything that decides a training run, as data.

Read from TOML into frozen dataclasses. An unknown key, a wrong type or a value out of range
is an error that names the key; every key can be overridden as `--set section.key=value`.
The resolved recipe is saved beside the adapter and can be given to `--recipe` again.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from pedsup.errors import UsageError
from pedsup.files.checks import Check, Count, at_least
from pedsup.files.records import record
from pedsup.files.source import Source, parse_toml, read_bytes

Positive: TypeAlias = Annotated[int, at_least(1)]
AboveZero: TypeAlias = Annotated[float, Check[float](lambda x: x > 0, "above 0")]
NO_PACKING: Final = "false: packing is not supported, see docs/train.md"
MAX_BYTES: Final = 1 << 20

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

    r: Positive = 16
    alpha: Positive = 32
    dropout: Annotated[float, Check[float](lambda x: 0 <= x < 1, "from 0 to below 1")] = 0.05
    targets: Annotated[
        tuple[str, ...], Check[tuple[str, ...]](lambda t: len(t) > 0, "at least one projection")
    ] = (
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
    limit: Count = 0
    """Keep at most so many, chosen by the run's data seed; 0: all."""
    answer_base: Literal["auto", "0", "1"] = "auto"
    """What number the first option has in MedMCQA's `cop`: 1 in the authors' JSON, 0 on the hub."""


@dataclass(frozen=True)
class DataConfig:
    """Which examples, how rendered, and what is held out."""

    sources: tuple[SourceConfig, ...] = ()
    eval_sources: tuple[SourceConfig, ...] = ()
    """Evaluation data; without any, `eval_examples` are held out of `sources`."""
    eval_examples: Count = 100
    max_length: Annotated[int, at_least(16)] = 768
    """Tokens; longer examples are left out and counted, never cut in the answer."""
    style: Style = "explain-first"
    system_prompt: str = ""
    packing: Annotated[bool, Check[bool](lambda on: not on, NO_PACKING)] = False
    max_bad_rows: Count = 0
    """More bad rows than this refuse the run; each is reported by line either way."""
    seed: int = 3407


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation, in the names of transformers' `TrainingArguments`."""

    batch_size: Positive = 4
    accumulation: Positive = 4
    merge_batches: bool = True
    """On a GPU: fewer and larger forward passes for a step, as its memory allows (run/split.py)."""
    epochs: float = 3.0
    max_steps: Count = 0
    """Stop after so many optimizer steps; 0: after `epochs`."""
    learning_rate: AboveZero = 2e-4
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: Count = 5
    weight_decay: float = 0.01
    max_grad_norm: AboveZero = 1.0
    optimizer: Literal["adamw_8bit", "adamw"] = "adamw_8bit"
    gradient_checkpointing: bool = True
    group_by_length: bool = True
    """Steps of examples of similar length: less padding."""
    log_every: Positive = 1
    eval_every: Positive = 50
    """Optimizer steps between evaluations; one is made before the first and after the last step."""
    save_every: Positive = 50
    quantize: Literal["none", "Q4_0", "Q4_K_M"] = "none"
    """Compute with the weights as a file of this type will hold them: what ships is trained."""
    quantize_every: Positive = 5
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
        UsageError: no such recipe, not valid TOML, an unknown key, a wrong type or a bad value.
    """
    path, source = Path(name_or_path), Source("the recipe", name_or_path, UsageError)
    if name_or_path in builtin_names():
        data = (resources.files("pedsup_train") / "recipes" / f"{name_or_path}.toml").read_bytes()
    elif path.is_file():
        data = read_bytes(path, source, MAX_BYTES)
    else:
        near = difflib.get_close_matches(name_or_path, builtin_names(), n=1)
        raise UsageError(
            f"no recipe '{name_or_path}'" + (f": did you mean '{near[0]}'?" if near else ""),
            wanted=f"a TOML file, or one of: {', '.join(builtin_names())}",
        )
    tree, in_file = parse_toml(data, source)
    for override in overrides:
        _override(tree, override)
    # A value of --set is on no line of the file.
    recipe = record(Recipe, tree, source if overrides else in_file)
    check(recipe, where=name_or_path)
    return recipe


def _override(tree: dict[str, object], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign:
        raise UsageError(f"--set {override}", wanted="section.key=value")
    *sections, last = key.strip().split(".")
    try:
        value: object = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text  # a bare word or a path: a string
    node: dict[str, object] = tree
    for section in sections:
        node = _child(node, section, override)
    node[last] = value


def _child(node: dict[str, object], section: str, override: str) -> dict[str, object]:
    """The table `section` of `node`, made if absent; `name[i]` is an entry of a list of tables."""
    name, bracket, rest = section.partition("[")
    child = node.setdefault(name, {})
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
        raise UsageError(f"--set {override}", wanted="a key of a table")
    return child


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
    """Combinations that the annotations cannot say.

    Raises:
        UsageError: naming the key.
    """
    train, data = recipe.train, recipe.data
    if train.epochs <= 0 and not train.max_steps:
        raise UsageError(
            f"train.epochs = {train.epochs}", where=where, wanted="above 0, or train.max_steps"
        )
    for holds, key, wanted in _grid_rules(recipe):
        if not holds:
            section, name = key.split(".")
            value = getattr(getattr(recipe, section), name)
            raise UsageError(f"{key} = {value!r}", where=where, wanted=wanted)
    for kind, sources in (("sources", data.sources), ("eval_sources", data.eval_sources)):
        for i, source in enumerate(sources):
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
