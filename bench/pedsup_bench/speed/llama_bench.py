"""The native `llama-bench` on the same file and threads, side by side.

The programs take turns, because a shared machine drifts within a run. Of each round the best
sample counts, since what else runs on the machine only ever slows one down, and a short prompt is
over in less time than one such disturbance takes; the ratio is the median of the rounds'.

Two builds of llama.cpp differ by their compilers and instruction sets alone. Where llama-bench's
libraries lie beside it and fit our bindings, ours runs on them too: that ratio is what our engine
costs (its sampling and its Python loop), the other one is what a user gets.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Final

from pedsup.child.death import ended
from pedsup.engine.select import engine_kind
from pedsup.errors import EngineError, MissingDependencyError
from pedsup.gguf_file.validate import validate_model
from pedsup_bench.report.forecast import Rates, announce
from pedsup_bench.speed.child import measured_speed
from pedsup_bench.speed.native import native_programs
from pedsup_bench.speed.plan import SpeedPlan
from pedsup_bench.speed.progress import Step, Work, speed_steps, work_bar
from pedsup_bench.speed.result import Against, Figures, Speed
from pedsup_bench.stats import median

VARIABLE: Final = "PEDSUP_LLAMA_BENCH"
ROUNDS: Final = 3
REPEATS: Final = 3
"""Samples per figure, program and round; the best counts."""
LIBRARY: Final = "LLAMA_CPP_LIB_PATH"


def find_program() -> Path:
    """`llama-bench` from the variable, the path, or the one built for the tests.

    Raises:
        MissingDependencyError: it is not installed.
    """
    built = native_programs() / "llama-bench"
    for found in (os.environ.get(VARIABLE), shutil.which("llama-bench"), str(built)):
        if found and os.access(found, os.X_OK):
            return Path(found)
    raise MissingDependencyError(
        "llama-bench is not here",
        remedy=f"in Termux: pkg install llama-cpp; here: make native, or set {VARIABLE}",
    )


def run(plan: SpeedPlan, figures: Figures) -> list[Against]:
    """The programs in turn; one row per figure, with ours over theirs.

    Args:
        figures: of `speed.measure` with this plan, from which the time is foreseen.
    """
    program = find_program()
    short = replace(plan, repeats=REPEATS, sustained=0.0)
    builds = [None, *own_libraries(program, plan)]
    tests = [f"prompt_{n}" for n in plan.prompts] + [f"decode_{d}" for d in plan.depths]
    ours: list[dict[str, list[float]]] = [{test: [] for test in tests} for _ in builds]
    theirs: dict[str, list[float]] = {test: [] for test in tests}
    work = _work(short, tests, len(builds), figures)
    announce(f"the same beside llama-bench, {ROUNDS} rounds", work.left())
    with work_bar(work, "against llama-bench"):
        for _ in range(ROUNDS):
            for samples, build in zip(ours, builds, strict=True):
                speed = _ours(short, build, work)
                for test in tests:
                    kind, _, n = test.partition("_")
                    samples[test].append(max(speed["prompt" if kind == "prompt" else "decode"][n]))
            for test in tests:
                arguments = _arguments(plan, *test.split("_"))
                theirs[test].append(max(_samples(program, short, arguments)))
                work.done(_steps(short, test))
    return [_row(test, [samples[test] for samples in ours], theirs[test]) for test in tests]


def own_libraries(program: Path, plan: SpeedPlan) -> list[Path]:
    """The folder of llama-bench's own libraries if our engine can run on them, or nothing."""
    folder = program.resolve().parent
    fits = (
        (folder / "libllama.so").is_file()
        and LIBRARY not in os.environ
        and engine_kind(plan.engine) == "inprocess"
    )
    return [folder] if fits else []


def _ours(plan: SpeedPlan, build: Path | None, work: Work) -> Speed:
    steps = iter(speed_steps(plan))
    return measured_speed(
        plan,
        on_step=lambda: work.done([next(steps)]),
        env=None if build is None else {LIBRARY: str(build)},
    )  # fmt: skip


def _row(test: str, ours: list[list[float]], theirs: list[float]) -> Against:
    """Best samples of each round, and the medians of the rounds' ratios."""
    ratios = [median([a / b for a, b in zip(o, theirs, strict=True)]) for o in ours]
    return {
        "test": test,
        "samples": theirs,
        "median": median(theirs),
        "ours": ours[0],
        "ratio": ratios[0],
        "ours_same_build": ours[1] if len(ours) > 1 else None,
        "ratio_same_build": ratios[1] if len(ours) > 1 else None,
    }


def _work(plan: SpeedPlan, tests: list[str], n_builds: int, figures: Figures) -> Work:
    steps = speed_steps(plan) * n_builds + [s for test in tests for s in _steps(plan, test)]
    medians = {name: figure["median"] for name, figure in figures.items()}
    rates = Rates(
        prompt=1 / min(medians[f"prompt_{n}"] for n in plan.prompts),
        decode=1 / min(medians[f"decode_{n}"] for n in plan.depths),
        load=medians["load_warm"],
    )
    return Work(steps * ROUNDS, rates)


def _steps(plan: SpeedPlan, test: str) -> list[Step]:
    """What llama-bench does for one test; it reads a prompt once to warm up."""
    kind, _, n = test.partition("_")
    if kind == "prompt":
        return [Step("load", 1), Step("prompt", int(n) * (plan.repeats + 1))]
    each = Step("decode", plan.n_decode * plan.repeats)
    return [Step("load", 1), Step("prompt", int(n) * plan.repeats), each]


def _arguments(plan: SpeedPlan, kind: str, n: str) -> list[object]:
    if kind == "prompt":
        return ["-p", n, "-n", 0]
    return ["-p", 0, "-n", plan.n_decode, "-d", n]


def _samples(program: Path, plan: SpeedPlan, arguments: list[object]) -> list[float]:
    validate_model(plan.model)
    command = [
        program, "-m", plan.model, "-t", plan.n_threads, "-r", plan.repeats, "-o", "json",
        "--repack", int(plan.extra_buffers), "-ub", plan.n_ubatch, *arguments,
    ]  # fmt: skip
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise EngineError(
            f"llama-bench {ended(done.returncode)}",
            where=done.stderr.strip().splitlines()[-3:],
        )
    (result,) = json.loads(done.stdout)
    return [float(speed) for speed in result["samples_ts"]]
