"""Run the pipelines of the export benchmark on one made checkpoint and collect their figures."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from pedsup.errors import OutputError
from pedsup.progress import byte_bar, human_bytes, say
from pedsup_bench.speed.process_memory import Memory
from pedsup_maintain.exporting import report
from pedsup_maintain.exporting.disk_floor import Floor, drop_cache, measure_floor
from pedsup_maintain.exporting.steps import (
    Job,
    Step,
    environment,
    our_step,
    peer_steps,
    vocabulary_file,
)
from pedsup_maintain.exporting.usage import measure
from pedsup_maintain.synthetic.sizes import SIZES, describe, model_bytes

MADE: Final = "made.json"
PACKAGES: Final = ("pedsup", "torch", "transformers", "peft", "numpy", "numba", "llama-cpp-python")


@dataclass(frozen=True)
class Options:
    """One benchmark."""

    size: str
    quant: str
    threads: int
    repeat: int
    sides: tuple[str, ...]
    drop: str
    """What leaves the page cache before each step: 'inputs', 'all' or 'none'."""
    keep: bool


def holds_checkpoint(folder: Path, size: str) -> bool:
    """Whether an earlier run left the whole checkpoint of this size in `folder`."""
    mark = folder / MADE
    return mark.is_file() and json.loads(mark.read_text()) == describe(SIZES[size])


def made_checkpoint(folder: Path, size: str) -> tuple[Path, Path]:
    """The base and adapter of a size in `folder`, made now or found from a kept run.

    Raises:
        OutputError: something else, or a checkpoint of another size, lies at that place.
    """
    from pedsup_maintain.synthetic.checkpoint import write_adapter, write_base

    shape = SIZES[size]
    base, adapter = folder / "base", folder / "adapter"
    if holds_checkpoint(folder, size):
        say(f"using the checkpoint in {folder}")
        return base, adapter
    if folder.exists():
        raise OutputError(
            f"the folder exists and holds no made checkpoint of size {size}",
            where=folder,
            remedy="give another --checkpoint, or remove that folder",
        )
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with byte_bar(model_bytes(shape), f"make the {size} checkpoint") as bar:
            write_base(partial / "base", shape, vocab_source=vocabulary_file(), on_bytes=bar.update)
        write_adapter(partial / "adapter", shape, base)
        (partial / MADE).write_text(json.dumps(describe(shape)))
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return base, adapter


@contextmanager
def _step_line(name: str) -> Iterator[Callable[[Memory], object]]:
    """One line on stderr with the time gone by and the memory in use."""
    line = tqdm(
        desc=name,
        bar_format="{desc}: {elapsed} {postfix}",
        file=sys.stderr,
        mininterval=0.5 if sys.stderr.isatty() else 30.0,
    )

    def update(memory: Memory) -> None:
        line.set_postfix_str(f"{human_bytes(memory.anon)} anonymous", refresh=False)
        line.update()

    try:
        yield update
    finally:
        line.close()


def run_side(side: str, job: Job, drop: str, logs: Path) -> report.Run:
    """Run one pipeline once and return its figures.

    Raises:
        EngineError: a command failed.
    """
    steps = peer_steps(job) if side == "peer" else [our_step(job)]
    shutil.rmtree(job.out, ignore_errors=True)
    temporary = job.out / "tmp"
    temporary.mkdir(parents=True)
    env = environment(job.threads, temporary)
    results = []
    for number, step in enumerate(steps, 1):
        drop_cache(step.reads, drop)
        label = f"{side} {number}/{len(steps)}: {step.name}"
        with _step_line(label) as on_sample:
            usage = measure(
                step.command,
                log=logs / f"{side}-{number}.log",
                env=env,
                watch=[job.out],
                on_sample=on_sample,
            )
        results.append(report.StepResult(step.name, usage, _result_bytes(side, job)))
    if side == "peer":
        _remove_intermediates(steps, job)
    return report.Run(tuple(results))


def result_file(side: str, job: Job) -> Path:
    """The quantized file of a side."""
    return job.out / (f"peer-{job.quant}.gguf" if side == "peer" else f"pedsup-{job.quant}.gguf")


def _result_bytes(side: str, job: Job) -> int:
    """Bytes of what a side was asked to make: the file, and our manifest beside it."""
    found = result_file(side, job)
    return sum(p.stat().st_blocks * 512 for p in job.out.glob(f"{found.name}*") if p.is_file())


def _remove_intermediates(steps: Sequence[Step], job: Job) -> None:
    for path in {p for step in steps for p in step.reads if p.is_relative_to(job.out)}:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def same_tensors(a: Path, b: Path) -> bool:
    """Whether two GGUF files hold the same tensors by name, shape and type."""
    from pedsup.gguf_file import read_header

    tables = [{t.name: (t.shape, t.type) for t in read_header(p).tensors.values()} for p in (a, b)]
    return tables[0] == tables[1]


def machine() -> dict[str, Any]:
    """What the figures belong to."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": pages,
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [x.partition(":")[2].strip() for x in lines if x.startswith(("model name", "Hardware"))]
    return names[0] if names else platform.processor()


def compare(options: Options, folder: Path, checkpoint: Path) -> report.Comparison:
    """Run every asked side `repeat` times, alternating, and the floor after each round.

    Args:
        folder: an empty folder for outputs and logs.
        checkpoint: where the made checkpoint is or will be.
    """
    base, adapter = made_checkpoint(checkpoint, options.size)
    runs: dict[str, list[report.Run]] = {side: [] for side in options.sides}
    jobs = {side: _job(options, (base, adapter), folder / side) for side in options.sides}
    floors: list[Floor] = []
    notes = [warm_up(options, folder)] if "ours" in jobs and options.size != "tiny" else []
    for _ in range(options.repeat):
        for side, job in jobs.items():
            runs[side].append(run_side(side, job, options.drop, folder))
        side, job = next(reversed(jobs.items()))
        size = result_file(side, job).stat().st_size
        floors.append(measure_floor([base, adapter], folder, size))
    same = None
    if len(jobs) == 2:
        same = same_tensors(*(result_file(side, job) for side, job in jobs.items()))
        notes += ["tensors, shapes and types of both files: " + ("equal" if same else "DIFFERENT")]
    return report.Comparison(
        size=options.size,
        made=describe(SIZES[options.size]),
        quant=options.quant,
        threads=options.threads,
        cache=options.drop,
        machine=machine(),
        peer=tuple(runs.get("peer", ())),
        ours=tuple(runs.get("ours", ())),
        floors=tuple(floors),
        same_tensors=same,
        notes=tuple(notes),
    )


def warm_up(options: Options, folder: Path) -> str:
    """Export a tiny checkpoint untimed: the first export on a machine compiles the kernels.

    The compiled code stays on the disk for every later export, so it is told apart.
    """
    tiny = made_checkpoint(folder / "warm-up", "tiny")
    run = run_side("ours", _job(options, tiny, folder / "warm-up-out"), "none", folder)
    return (
        f"before, untimed: a tiny export of {run.total.wall:.1f} s, which compiles the kernels "
        "where they are not cached yet"
    )


def _job(options: Options, inputs: tuple[Path, Path], out: Path) -> Job:
    return Job(*inputs, out, options.quant, options.threads)


def peak_by_size(
    sizes: Sequence[str], options: Options, folder: Path
) -> list[tuple[str, int, report.Total]]:
    """Our export's peaks on checkpoints of several sizes: (size, bytes of the model, total)."""
    found = []
    for size in sizes:
        base, adapter = made_checkpoint(folder / f"checkpoint-{size}", size)
        job = _job(options, (base, adapter), folder / "ours")
        run = run_side("ours", job, options.drop, folder)
        found.append((size, model_bytes(SIZES[size]), run.total))
        if not options.keep:
            shutil.rmtree(folder / f"checkpoint-{size}")
    return found
