"""Measure training on a GPU: steps/s, tokens/s and peak memory, each cell in its own process.

    python -m pedsup_maintain.training.gpu_record --smollm2-base out/base --out out/gpu-record

A cell is (model, precision, backend): an E4B-shaped Gemma 4 with random weights (built on the
GPU, or once on disk where unsloth is measured too) and the real SmolLM2, in 16 bit and in 4 bit,
with each backend that can be imported. It runs the loop of `pedsup-train run` with the values of
recipe v0.1 (16 examples a step, in as few passes as the GPU holds; context 768, r16 on all
projections, checkpointing) on random tokens whose lengths are those of the original run (about 431
tokens an example). Random tokens cost what real ones cost; the losses mean nothing and are not
reported.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import platform
import shutil
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from pedsup.cli.border import border
from pedsup.files.fsio import atomic_file
from pedsup.progress import say
from pedsup_maintain import child_environment
from pedsup_maintain.training.gpu_cell import Cell, measure, save_random

MARK: Final = "PEDSUP-CELL "
"""Before the JSON that a cell prints: libraries write to stdout as they like."""
ORIGINAL_STEPS: Final = 375
STACK_LINES: Final = 200
"""Lines kept of what a stopped cell wrote: the stacks of its threads."""


def run_cell(cell: Cell, timeout: float) -> dict[str, Any]:
    """Run a cell in a process of its own; what goes wrong is its result.

    A cell that takes too long says where it stood: it prints its stacks shortly before it is
    stopped, and its last lines are in the result.
    """
    command = [sys.executable, "-m", "pedsup_maintain.training.gpu_record"]
    command += ["--timeout", str(timeout), "--cell", json.dumps(dataclasses.asdict(cell))]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env=child_environment()
        )
    except subprocess.TimeoutExpired as late:
        stderr = (late.stderr or b"").decode(errors="replace").splitlines()
        return {
            **dataclasses.asdict(cell),
            "error": f"longer than {timeout:.0f} s",
            "stages": [line for line in stderr if line.startswith("cell: ")],
            "stderr": "\n".join(stderr[-STACK_LINES:]),
        }
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

    from pedsup_train.model.versions import recorded

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
        "| model | precision | backend | batch | steps/s | tokens/s | peak GPU memory | weights"
        " | first step | 375 steps take |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        name = Path(r["model"]).name if "/" in r["model"] else f"{r['model']} (random weights)"
        name += "" if r["checkpointing"] else ", no checkpointing"
        head = f"| {name} | {r['precision']} | {r['backend']} |"
        if "error" in r:
            lines.append(f"{head} | {r['error'].splitlines()[0][:120]} | | | | | |")
            continue
        peak = f"{r['peak_gpu_bytes'] / 2**30:.1f} GiB" if r["peak_gpu_bytes"] else "-"
        lines.append(
            f"{head} {r['split']['batch_size']} x {r['split']['passes']}"
            f" | {r['steps_per_s']:.3f} | {r['tokens_per_s']:,.0f}"
            f" | {peak} | {r['weights_bytes'] / 2**30:.1f} GiB | {r['first_step_s']:.1f} s"
            f" | {ORIGINAL_STEPS / r['steps_per_s'] / 60:.1f} min |"
        )
    return "\n".join(lines)


def available_backends() -> list[str]:
    """Backends that can be imported here."""
    import importlib.util

    import torch

    has_unsloth = torch.cuda.is_available() and importlib.util.find_spec("unsloth")
    return ["transformers", "unsloth"] if has_unsloth else ["transformers"]


def show_stacks() -> None:
    """What each thread of this process is doing, on stderr.

    faulthandler's own watchdog reads frames while they change, and has crashed a cell by that.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        print(f"stack of {names.get(ident, ident)}:", file=sys.stderr)
        traceback.print_stack(frame, file=sys.stderr)


def _one(text: str, timeout: float) -> int:
    cell = Cell(**json.loads(text))
    watch = threading.Timer(max(1.0, timeout - 5.0), show_stacks)
    watch.daemon = True
    watch.start()
    try:
        # Libraries print banners; stdout has the result alone.
        with contextlib.redirect_stdout(sys.stderr):
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
@click.option("--unmerged", is_flag=True, help="measure each cell with the recipe's own batch too")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("out/gpu-record"), show_default=True
)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    type=click.Choice(["transformers", "unsloth"]),
    help="default: each that can be imported",
)
@click.option("--cell", hidden=True)
@click.option("--save-random", hidden=True, nargs=2)
def program(
    models: tuple[str, ...], precisions: tuple[str, ...], steps: int, timeout: float, out: Path,
    **options: Any,
) -> int:  # fmt: skip
    """Measure training on this machine's GPU; JSON and a Markdown table in OUT."""
    if options["cell"]:
        return _one(options["cell"], timeout)
    if options["save_random"]:
        shape, folder = options["save_random"]
        save_random(shape, Path(folder))
        return 0
    out.mkdir(parents=True, exist_ok=True)
    base = _smollm2(options["smollm2_base"], options["smollm2_gguf"], out)
    named = [*models, *([] if base is None else [str(base.resolve())])]
    sizes = {key: options[key] for key in ("batch_size", "accumulation", "max_length")}
    backends = list(options["backends"] or available_backends())
    planned = list(cells(named, list(precisions), backends, steps, **sizes))
    if "unsloth" in backends:
        # It loads from a folder only; the other then loads from the same.
        folders = {shape: _random_folder(shape, out) for shape in models}
        planned = [dataclasses.replace(c, folder=folders.get(c.model, "")) for c in planned]
    if options["without_checkpointing"]:
        planned += [dataclasses.replace(cell, checkpointing=False) for cell in planned]
    if options["unmerged"]:
        planned += [dataclasses.replace(cell, merge=False) for cell in planned]
    results = []
    for number, cell in enumerate(planned, 1):
        say(f"cell {number} of {len(planned)}: {cell.label}")
        results.append(run_cell(cell, timeout))
        say(f"  {results[-1].get('error') or markdown(results[-1:]).splitlines()[-1]}")
        # Written after each cell: a machine that is taken away leaves what was measured.
        _write(out, results)
    click.echo(markdown(results))
    for made in ("smollm2", *(f"random-{shape}" for shape in models)):
        shutil.rmtree(out / made, ignore_errors=True)
    return 0 if any("error" not in result for result in results) else 1


def _smollm2(base: Path | None, gguf: Path | None, out: Path) -> Path | None:
    if gguf is None:
        return base
    from pedsup_train.base.smollm2 import make_base

    return make_base(out / "smollm2", source=gguf, force=True).folder


def _random_folder(shape: str, out: Path) -> str:
    """A random model on disk (E4B: 15 GB), made in a process of its own: the GPU is then free."""
    folder = (out / f"random-{shape}").resolve()
    say(f"making {folder}")
    command = [
        sys.executable,
        "-m",
        "pedsup_maintain.training.gpu_record",
        "--save-random",
        shape,
        str(folder),
    ]
    subprocess.run(command, check=True, env=child_environment())
    return str(folder)


def _write(out: Path, results: list[dict[str, Any]]) -> None:
    document = {
        "command": " ".join(["python", "-m", "pedsup_maintain.training.gpu_record", *sys.argv[1:]]),
        "machine": machine(),
        "cells": results,
    }
    with atomic_file(out / "gpu-record.json") as file:
        file.write(json.dumps(document, indent=2).encode() + b"\n")
    with atomic_file(out / "gpu-record.md") as file:
        file.write(markdown(results).encode() + b"\n")


def main() -> NoReturn:
    """Entry point of `python -m pedsup_maintain.training.gpu_record`."""
    border(lambda: program(standalone_mode=False))


if __name__ == "__main__":
    main()
