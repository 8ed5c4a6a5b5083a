"""Our engine against `llama-bench`: `python -m pedsup_maintain.engine.speed MODEL`.

Both run the same build of llama.cpp, threads and settings, in turns, several rounds. Compared
are the best rounds: what else runs on the machine only ever slows one down. `llama-bench` does
not sample; ours does. The part of our loop's CPU time that llama.cpp's decoding takes is the same
figure without any noise.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click

from pedsup.cli.border import border
from pedsup.errors import EngineError, MissingDependencyError
from pedsup.gguf_file.validate import validate_model
from pedsup.progress import human_bytes, say
from pedsup_maintain import child_environment
from pedsup_tools.llama_cpp_programs import BIN

N_PROMPT: Final = 512
N_GEN: Final = 128
N_CTX: Final = 640
SYSTEM_SENTENCE: Final = (
    "You help pediatric researchers read guidelines: cite the guideline, state the weight, the "
    "dose range and the warning signs, and say plainly when a professional has to decide. "
)
SYSTEM_REPEATS: Final = 14
"""About 500 tokens."""


@dataclass(frozen=True)
class Round:
    """One round of both, in tokens per second."""

    native_prompt: float
    native_decode: float
    our_prompt: float
    our_decode: float
    greedy_decode: float
    native_peak: int
    our_peak: int
    our_anon: int
    decode_share: float
    """Part of our loop's CPU time spent in `llama_decode`: the decode ratio without the noise."""


@dataclass(frozen=True)
class Report:
    """The figures of a run; ratios are ours over native, best round over best round."""

    model: str
    threads: int
    rounds: list[Round]
    prompt_ratio: float
    decode_ratio: float
    greedy_decode_ratio: float
    decode_share: float
    startup_s: float
    load_s: float
    python_rss: int
    own_memory: int
    first_token_cold_s: float
    first_token_warm_s: float
    prefix_tokens: int
    prefix_speedup: float


def find_llama_bench(given: str | None) -> Path:
    """The program given, or the one in PEDSUP_NATIVE's build."""
    path = Path(given) if given else BIN / "llama-bench"
    if not os.access(path, os.X_OK):
        raise MissingDependencyError(
            "llama-bench was not found",
            where=path,
            remedy="run `make native`, or give --llama-bench",
        )
    return path


def run_native(program: Path, model: Path, threads: int, repeats: int) -> tuple[float, float, int]:
    """(prompt tokens/s, decode tokens/s, peak resident bytes) of llama-bench."""
    validate_model(model)
    command = [
        program, "-m", model, "-t", threads, "-p", N_PROMPT, "-n", N_GEN, "-r", repeats,
        "--repack", 0, "-o", "json",
    ]  # fmt: skip
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen(list(map(str, command)), stdout=out, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise EngineError(f"llama-bench ended with {child.returncode}", where=program)
        out.seek(0)
        rows = json.load(out)
    speeds = {bool(row["n_gen"]): max(row["samples_ts"]) for row in rows}
    return speeds[False], speeds[True], usage.ru_maxrss * 1024


def run_ours(mode: str, program: Path, task: dict[str, Any]) -> dict[str, Any]:
    """One task in a fresh process on llama-bench's own libraries."""
    environment = {**child_environment(), "LLAMA_CPP_LIB_PATH": str(program.parent)}
    task = {"mode": mode, "n_ctx": N_CTX, "spawned": time.time(), **task}
    done = subprocess.run(
        [sys.executable, "-m", "pedsup_maintain.engine.worker", json.dumps(task)],
        stdout=subprocess.PIPE,
        env=environment,
        check=False,
    )
    if done.returncode:
        raise EngineError(f"the measurement '{mode}' ended with {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure_round(program: Path, model: Path, threads: int, repeats: int) -> Round:
    """Native, then ours with the model's sampling, then ours greedy."""
    prompt, decode, peak = run_native(program, model, threads, repeats)
    task = {
        "model": str(model), "threads": threads, "repeats": repeats,
        "n_prompt": N_PROMPT, "n_gen": N_GEN,
    }  # fmt: skip
    ours = run_ours("speed", program, {**task, "greedy": False})
    greedy = run_ours("speed", program, {**task, "greedy": True})
    return Round(
        prompt, decode, ours["prompt_tps"], ours["decode_tps"], greedy["decode_tps"],
        peak, int(ours["peak_rss"]), int(ours["anon_rss"]), ours["decode_share"],
    )  # fmt: skip


def measure_first_token(program: Path, model: Path, threads: int) -> tuple[float, float, int]:
    """(seconds without, seconds with the saved state, tokens of the system prompt)."""
    with tempfile.TemporaryDirectory() as cache:
        task = {
            "model": str(model), "threads": threads, "cache": cache, "n_ctx": 2 * N_CTX,
            "system": SYSTEM_SENTENCE * SYSTEM_REPEATS,
        }  # fmt: skip
        cold = run_ours("first_token", program, task)
        warm = run_ours("first_token", program, task)
    if (cold["source"], warm["source"]) != ("read", "disk"):
        raise EngineError(f"the prefix cache was not used: {cold['source']}, {warm['source']}")
    return cold["seconds"], warm["seconds"], int(cold["n_tokens"])


def measure(program: Path, model: Path, threads: int, rounds: int, repeats: int) -> Report:
    """All figures."""
    done = []
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}: llama-bench, then ours")
        done.append(measure_round(program, model, threads, repeats))
    say("start-up and first token")
    starts = [
        run_ours("startup", program, {"model": str(model), "threads": threads}) for _ in range(3)
    ]
    start = min(starts, key=lambda s: float(s["total_s"]) - float(s["load_s"]))
    cold, warm, n_tokens = measure_first_token(program, model, threads)
    median, native_decode = statistics.median, max(r.native_decode for r in done)
    return Report(
        model=model.name,
        threads=threads,
        rounds=done,
        prompt_ratio=max(r.our_prompt for r in done) / max(r.native_prompt for r in done),
        decode_ratio=max(r.our_decode for r in done) / native_decode,
        greedy_decode_ratio=max(r.greedy_decode for r in done) / native_decode,
        decode_share=median(r.decode_share for r in done),
        startup_s=start["total_s"] - start["load_s"],
        load_s=start["load_s"],
        python_rss=int(start["python_rss"]),
        own_memory=int(median(r.our_peak - r.native_peak for r in done)),
        first_token_cold_s=cold,
        first_token_warm_s=warm,
        prefix_tokens=n_tokens,
        prefix_speedup=cold / warm,
    )


def table(report: Report) -> str:
    """The figures for a reader."""
    last = report.rounds[-1]
    rows = [
        ("prompt, ours / llama-bench", f"{report.prompt_ratio:.3f}", "0.97"),
        ("decode with sampling / llama-bench", f"{report.decode_ratio:.3f}", "0.97"),
        ("decode greedy / llama-bench", f"{report.greedy_decode_ratio:.3f}", "0.97"),
        ("decode's part of our CPU time", f"{report.decode_share:.3f}", "0.97"),
        ("start-up beside the model load", f"{report.startup_s:.2f} s", "< 0.6 s"),
        ("peak memory beside llama-bench's", human_bytes(report.own_memory), "< 60 MiB"),
        ("Python and imports before the load", human_bytes(report.python_rss), ""),
        (
            f"first token, {report.prefix_tokens}-token prompt",
            f"{report.first_token_cold_s:.2f} s, saved {report.first_token_warm_s:.2f} s "
            f"({report.prefix_speedup:.1f} times sooner)",
            "5 times",
        ),
    ]
    lines = [
        f"{report.model}, {report.threads} threads, {len(report.rounds)} rounds; last round: "
        f"llama-bench {last.native_prompt:.0f} / {last.native_decode:.1f} tokens/s, "
        f"ours {last.our_prompt:.0f} / {last.our_decode:.1f}",
        *(f"  {name:<38} {value:<36} {goal}" for name, value, goal in rows),
    ]
    return "\n".join(lines)


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--threads", type=int, default=None, help="default: the cores of the affinity mask")
@click.option("--rounds", type=int, default=3, show_default=True)
@click.option("--repeats", type=int, default=2, show_default=True, help="runs inside a round")
@click.option("--llama-bench", "program", default=None, help="path of the native program")
@click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")
def command(
    model: Path, threads: int | None, rounds: int, repeats: int, program: str | None, as_json: bool
) -> None:
    """Compare our engine with llama-bench on MODEL."""
    count = threads or len(os.sched_getaffinity(0))
    report = measure(find_llama_bench(program), model, count, rounds, repeats)
    click.echo(json.dumps(asdict(report), indent=1) if as_json else table(report))


if __name__ == "__main__":
    border(lambda: command(standalone_mode=False))
