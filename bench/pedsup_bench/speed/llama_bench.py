"""The native `llama-bench` on the same file and threads, side by side."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

from pedsup.errors import EngineError, MissingDependencyError
from pedsup_bench.speed.plan import SpeedPlan
from pedsup_bench.stats import median

VARIABLE: Final = "PEDSUP_LLAMA_BENCH"


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


def run(plan: SpeedPlan, figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Its prompt and decode speeds, and ours as a ratio of them.

    llama-bench decodes random tokens without sampling; ours samples and turns tokens to text.
    """
    rows = []
    for n in plan.prompts:
        rows.append(_row(f"prompt_{n}", _samples(plan, ["-p", n, "-n", 0]), figures))
    for depth in plan.depths:
        arguments = ["-p", 0, "-n", plan.n_decode, "-d", depth]
        rows.append(_row(f"decode_{depth}", _samples(plan, arguments), figures))
    return rows


def _row(test: str, samples: list[float], figures: dict[str, Any]) -> dict[str, Any]:
    middle = median(samples)
    return {
        "test": test,
        "samples": samples,
        "median": middle,
        "ratio": figures[test]["median"] / middle,
    }


def _samples(plan: SpeedPlan, arguments: list[object]) -> list[float]:
    command = [
        find_program(), "-m", plan.model, "-t", plan.n_threads, "-r", plan.repeats, "-o", "json",
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
