"""The native `llama-bench` on the same file and threads, side by side.

The two take turns, because a shared machine drifts within a run: the ratio is the median of the
rounds' own ratios. It holds the sampling and the Python loop that llama-bench has not, and the
difference between two builds of llama.cpp unless LLAMA_CPP_LIB_PATH points at llama-bench's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pedsup.errors import EngineError, MissingDependencyError
from pedsup.gguf_file.validate import validate_model
from pedsup_bench.bars import item_bar
from pedsup_bench.speed.measure import child
from pedsup_bench.speed.plan import SpeedPlan
from pedsup_bench.stats import median

VARIABLE: Final = "PEDSUP_LLAMA_BENCH"
ROUNDS: Final = 3
REPEATS: Final = 2
"""Samples per figure, program and round."""


def find_program() -> Path:
    """`llama-bench` from the variable, the path, or the one built for the tests.

    Raises:
        MissingDependencyError: there is none.
    """
    built = Path.home() / ".cache/pedsup/llama-cpp-0.3.36/build/bin/llama-bench"
    for found in (os.environ.get(VARIABLE), shutil.which("llama-bench"), str(built)):
        if found and os.access(found, os.X_OK):
            return Path(found)
    raise MissingDependencyError(
        "llama-bench is not here",
        remedy=f"in Termux: pkg install llama-cpp; here: make native, or set {VARIABLE}",
    )


def run(plan: SpeedPlan) -> list[dict[str, Any]]:
    """Both programs in turn; one row per figure, with ours over theirs."""
    program = find_program()
    short = replace(plan, repeats=REPEATS, sustained=0.0)
    tests = [f"prompt_{n}" for n in plan.prompts] + [f"decode_{d}" for d in plan.depths]
    ours: dict[str, list[float]] = {test: [] for test in tests}
    theirs: dict[str, list[float]] = {test: [] for test in tests}
    with item_bar(ROUNDS, "against llama-bench", "round") as bar:
        for _ in range(ROUNDS):
            speed = child(short, "speed")
            for test in tests:
                kind, _, n = test.partition("_")
                ours[test].append(median(speed[kind][n]))
                theirs[test].append(median(_samples(program, short, _arguments(plan, kind, n))))
            bar.update()
    return [
        {
            "test": test,
            "samples": theirs[test],
            "median": median(theirs[test]),
            "ours": ours[test],
            "ratio": median([a / b for a, b in zip(ours[test], theirs[test], strict=True)]),
        }
        for test in tests
    ]


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
            f"llama-bench ended with code {done.returncode}",
            where="\n".join(done.stderr.strip().splitlines()[-3:]),
        )
    (result,) = json.loads(done.stdout)
    return [float(speed) for speed in result["samples_ts"]]
