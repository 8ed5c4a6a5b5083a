"""Measure training on a GPU: steps/s, tokens/s and peak memory, each cell in its own process.

    python -m pedsup_train.gpu_record --smollm2-base out/base --out out/gpu-record

A cell is (model, precision, backend): an E4B-shaped Gemma 4 with random weights built on the
GPU, and the real SmolLM2, in 16 bit and in 4 bit, with each backend that can be imported. It
runs the loop of `pedsup-train run` with the values of recipe v0.1 (batch 4 x accumulation 4,
context 768, r16 on all projections, checkpointing) on random tokens whose lengths are those of
the original run (about 431 tokens an example). Random tokens cost what real ones cost; the
losses mean nothing and are not reported.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, Final, NoReturn

import click

from pedsup.errors import border
from pedsup.fsio import atomic_file
from pedsup.progress import say
from pedsup_train.recipe import LoraConfig, ModelConfig, Recipe, read_recipe
from pedsup_train.render import Rendered

MARK: Final = "PEDSUP-CELL "
"""Before the JSON that a cell prints: libraries write to stdout as they like."""
WARM_UP: Final = 3
"""Steps left out of the figures: allocation, kernel selection, compilation."""
MEAN_TOKENS: Final = 431
ORIGINAL_STEPS: Final = 375


@dataclass(frozen=True)
class Cell:
    """One measurement."""

    model: str
    """'e4b' or 'tiny' (random weights), or the folder of a real base."""
    precision: str
    """'bf16', 'fp32' or 'nf4'."""
    backend: str
    steps: int
    batch_size: int = 4
    accumulation: int = 4
    max_length: int = 768
    checkpointing: bool = True

    @property
    def label(self) -> str:
        name = Path(self.model).name if "/" in self.model else self.model
        return f"{name}, {self.precision}, {self.backend}" + (
            "" if self.checkpointing else ", no checkpointing"
        )


def cell_recipe(cell: Cell) -> Recipe:
    """Recipe v0.1 with the cell's model, precision, steps and sizes."""
    recipe = read_recipe("v0.1")
    dtype: Any = "float32" if cell.precision == "fp32" else "bfloat16"
    return dataclasses.replace(
        recipe,
        model=ModelConfig(
            base=cell.model,
            quantization="nf4" if cell.precision == "nf4" else "none",
            dtype=dtype,
            backend=cell.backend,  # type: ignore[arg-type]
        ),
        lora=LoraConfig(),
        data=dataclasses.replace(recipe.data, max_length=cell.max_length),
        train=dataclasses.replace(
            recipe.train,
            batch_size=cell.batch_size,
            accumulation=cell.accumulation,
            max_steps=cell.steps,
            gradient_checkpointing=cell.checkpointing,
            save_every=10**9,
        ),
    )


def random_examples(n: int, *, max_length: int, vocab: int, seed: int = 0) -> list[Rendered]:
    """Random tokens, lengths around 431 (scaled to `max_length`); loss on the last two thirds."""
    rng = random.Random(seed)
    mean = MEAN_TOKENS * max_length / 768
    items = []
    for _ in range(n):
        length = min(max_length, max(8, round(rng.lognormvariate(0, 0.35) * 0.94 * mean)))
        ids = tuple(rng.randrange(110, vocab) for _ in range(length))
        items.append(Rendered("", "", ids, length // 3))
    return items


def build_random(shape: str, recipe: Recipe, device: str) -> Any:
    """A Gemma 4 with random weights, made on the device; its linear layers in NF4 if asked for."""
    import torch
    from transformers import AutoModelForCausalLM

    from pedsup_train.gemma4_shapes import gemma4_config

    dtype = getattr(torch, recipe.model.dtype)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(gemma4_config(shape), dtype=dtype)
    if recipe.model.quantization == "nf4":
        quantize_in_place(model, dtype, device)
    return model


def quantize_in_place(model: Any, dtype: Any, device: str) -> None:
    """Replace the decoder's linear layers by bitsandbytes' 4-bit ones (double quantization)."""
    import bitsandbytes as bnb
    import torch

    names = [
        name
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear and ".layers." in f".{name}"
    ]
    for name in names:
        parent = model.get_submodule(name.rpartition(".")[0])
        old = model.get_submodule(name)
        new = bnb.nn.Linear4bit(
            old.in_features, old.out_features, bias=False, compute_dtype=dtype,
            compress_statistics=True, quant_type="nf4", device="meta",
        )  # fmt: skip
        # The weight is quantized when it is moved to the device, and so must not be there yet.
        new.weight = bnb.nn.Params4bit(
            old.weight.data.cpu(), requires_grad=False, compress_statistics=True, quant_type="nf4",
            module=new,
        ).to(device)  # fmt: skip
        new.weight.module = new
        setattr(parent, name.rpartition(".")[2], new)
    model.is_loaded_in_4bit = True
    if device == "cuda":
        torch.cuda.empty_cache()


def load_cell(cell: Cell, recipe: Recipe, runtime: Any, folder: Path) -> Any:
    """The cell's model with LoRA on it."""
    from pedsup_train import backends
    from pedsup_train.targets import check_adapted

    if cell.model not in ("e4b", "tiny"):
        return backends.load(recipe, runtime)
    if cell.backend == "transformers":
        model, targets = backends.add_lora(build_random(cell.model, recipe, runtime.device), recipe)
        tokenizer: Any = SimpleNamespace(pad_token_id=0)
        return backends.Loaded(model, tokenizer, targets, check_adapted(model, targets))
    # unsloth loads from a folder only.
    save_random(cell.model, folder)
    named = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, base=str(folder)))
    return backends.load(named, runtime)


def save_random(shape: str, folder: Path) -> None:
    """A random model as a Hugging Face folder, with a tokenizer of four tokens."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    recipe = Recipe(model=ModelConfig(dtype="bfloat16"))
    build_random(shape, recipe, "cuda" if torch.cuda.is_available() else "cpu").save_pretrained(
        folder
    )
    tokens = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3}
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(tokens, unk_token="<unk>")),
        pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>",
    ).save_pretrained(folder)  # fmt: skip


def measure(cell: Cell) -> dict[str, Any]:
    """Run one cell in this process."""
    import torch

    from pedsup_train import backends
    from pedsup_train.loop import fit

    recipe = cell_recipe(cell)
    runtime = backends.choose_runtime(recipe)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pedsup-cell-") as name:
        folder = Path(name)
        loaded = load_cell(cell, recipe, runtime, folder / "model")
        loading = time.monotonic() - began
        vocab = int(loaded.model.get_input_embeddings().weight.shape[0])
        n = cell.steps * cell.batch_size * cell.accumulation
        examples = random_examples(n, max_length=cell.max_length, vocab=vocab)
        outcome = fit(recipe, runtime, loaded, (examples, []), folder / "work")
    weights = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    return {
        **dataclasses.asdict(cell),
        **rates(outcome.history),
        "peak_gpu_bytes": outcome.peak_gpu_bytes,
        "weights_bytes": weights,
        "trained_parameters": loaded.n_trainable,
        "optimizer": runtime.optimizer,
        "load_s": round(loading, 1),
        "torch": torch.__version__,
    }


def rates(history: list[dict[str, Any]]) -> dict[str, float]:
    """Steps and (unpadded) tokens per second after the warm-up, and the median step."""
    rows = [row for row in history if "loss" in row]
    if len(rows) <= WARM_UP:
        raise ValueError(f"{len(rows)} steps, wanted more than {WARM_UP}")
    timed = rows[WARM_UP - 1 :]
    seconds = timed[-1]["elapsed_s"] - timed[0]["elapsed_s"]
    tokens = timed[-1]["num_input_tokens_seen"] - timed[0]["num_input_tokens_seen"]
    steps = [b["elapsed_s"] - a["elapsed_s"] for a, b in pairwise(timed)]
    return {
        "timed_steps": len(steps),
        "steps_per_s": len(steps) / seconds,
        "tokens_per_s": tokens / seconds,
        "median_step_s": median(steps),
        "slowest_step_s": max(steps),
    }


def run_cell(cell: Cell, timeout: float) -> dict[str, Any]:
    """Run a cell in a process of its own; what goes wrong is its result."""
    command = [sys.executable, "-m", "pedsup_train.gpu_record", "--cell"]
    command.append(json.dumps(dataclasses.asdict(cell)))
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {**dataclasses.asdict(cell), "error": f"longer than {timeout:.0f} s"}
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(MARK):
            return dict(json.loads(line.removeprefix(MARK)))
    tail = "\n".join(done.stderr.splitlines()[-15:])
    return {**dataclasses.asdict(cell), "error": f"exit {done.returncode}", "stderr": tail}


def cells(
    models: list[str], precisions: list[str], backends: list[str], steps: int, **sizes: Any
) -> Iterator[Cell]:
    """All combinations, the transformers backend first."""
    for backend in backends:
        for model in models:
            for precision in precisions:
                yield Cell(model, precision, backend, steps, **sizes)


def machine() -> dict[str, Any]:
    """Device, driver and library versions."""
    import torch

    from pedsup_train.versions import recorded

    facts: dict[str, Any] = {"platform": platform.platform(), "versions": recorded()}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "gpu": properties.name,
            "gpu_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
        }
    return facts


def markdown(results: list[dict[str, Any]]) -> str:
    """The table for docs/train.md."""
    lines = [
        "| model | precision | backend | steps/s | tokens/s | peak GPU memory | weights"
        " | 375 steps take |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        name = Path(r["model"]).name if "/" in r["model"] else f"{r['model']} (random weights)"
        name += "" if r["checkpointing"] else ", no checkpointing"
        head = f"| {name} | {r['precision']} | {r['backend']} |"
        if "error" in r:
            lines.append(f"{head} {r['error'].splitlines()[0][:120]} | | | | |")
            continue
        peak = f"{r['peak_gpu_bytes'] / 2**30:.1f} GiB" if r["peak_gpu_bytes"] else "-"
        lines.append(
            f"{head} {r['steps_per_s']:.3f} | {r['tokens_per_s']:,.0f}"
            f" | {peak} | {r['weights_bytes'] / 2**30:.1f} GiB"
            f" | {ORIGINAL_STEPS / r['steps_per_s'] / 60:.1f} min |"
        )
    return "\n".join(lines)


def available_backends() -> list[str]:
    """Backends that can be imported here."""
    import importlib.util

    import torch

    has_unsloth = torch.cuda.is_available() and importlib.util.find_spec("unsloth")
    return ["transformers", "unsloth"] if has_unsloth else ["transformers"]


def _one(text: str) -> int:
    cell = Cell(**json.loads(text))
    try:
        result = measure(cell)
    except Exception as error:  # a cell's failure is a finding, whatever it was
        trace = traceback.format_exc().splitlines()[-12:]
        result = {
            **dataclasses.asdict(cell),
            "error": f"{type(error).__name__}: {error}",
            "trace": trace,
        }
    print(MARK + json.dumps(result), flush=True)
    return 0


@click.command()
@click.option(
    "--model",
    "models",
    multiple=True,
    default=("e4b",),
    show_default=True,
    type=click.Choice(["e4b", "tiny"]),
)
@click.option("--smollm2-base", type=click.Path(path_type=Path), help="folder of the default base")
@click.option("--smollm2-gguf", type=click.Path(path_type=Path), help="make that base from a GGUF")
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    default=("bf16", "nf4"),
    show_default=True,
    type=click.Choice(["bf16", "nf4", "fp32"]),
)
@click.option("--steps", default=13, show_default=True, help="optimizer steps a cell, 3 untimed")
@click.option("--batch-size", default=4, show_default=True)
@click.option("--accumulation", default=4, show_default=True)
@click.option("--max-length", default=768, show_default=True)
@click.option("--timeout", default=240.0, show_default=True, help="seconds a cell may take")
@click.option("--without-checkpointing", is_flag=True, help="measure each cell without it too")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("out/gpu-record"), show_default=True
)
@click.option("--cell", hidden=True)
def program(
    models: tuple[str, ...], precisions: tuple[str, ...], steps: int, timeout: float, out: Path,
    **options: Any,
) -> int:  # fmt: skip
    """Measure training on this machine's GPU; JSON and a Markdown table in OUT."""
    if options["cell"]:
        return _one(options["cell"])
    out.mkdir(parents=True, exist_ok=True)
    named = [*models]
    base: Path | None = options["smollm2_base"]
    if options["smollm2_gguf"]:
        from pedsup_train.smollm2_base import make_base

        base = make_base(out / "smollm2", source=options["smollm2_gguf"], force=True).folder
    if base is not None:
        named.append(str(base.resolve()))
    sizes = {key: options[key] for key in ("batch_size", "accumulation", "max_length")}
    planned = list(cells(named, list(precisions), available_backends(), steps, **sizes))
    if options["without_checkpointing"]:
        planned += [dataclasses.replace(cell, checkpointing=False) for cell in planned]
    results = []
    for number, cell in enumerate(planned, 1):
        say(f"cell {number} of {len(planned)}: {cell.label}")
        results.append(run_cell(cell, timeout))
        say(f"  {results[-1].get('error') or markdown(results[-1:]).splitlines()[-1]}")
        # Written after each cell: a machine that is taken away leaves what was measured.
        _write(out, results)
    click.echo(markdown(results))
    if options["smollm2_gguf"]:
        shutil.rmtree(out / "smollm2", ignore_errors=True)
    return 0 if any("error" not in result for result in results) else 1


def _write(out: Path, results: list[dict[str, Any]]) -> None:
    document = {
        "command": " ".join(["python", "-m", "pedsup_train.gpu_record", *sys.argv[1:]]),
        "machine": machine(),
        "cells": results,
    }
    with atomic_file(out / "gpu-record.json") as file:
        file.write(json.dumps(document, indent=2).encode() + b"\n")
    with atomic_file(out / "gpu-record.md") as file:
        file.write(markdown(results).encode() + b"\n")


def main() -> NoReturn:
    """Entry point of `python -m pedsup_train.gpu_record`."""
    border(lambda: program(standalone_mode=False))


if __name__ == "__main__":
    main()
