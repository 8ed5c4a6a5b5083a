"""The measured process: one job for `pedsup_bench.speed.child` (`pedsup.child.lines`).

Each load is a process of its own, so that memory figures are of one model and nothing else, and
so that a crash of llama.cpp ends a measurement and not the program.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, perf_counter
from typing import Final, Literal

from pedsup.child.lines import answer, requests
from pedsup.engine.api import Engine, EngineConfig, SamplingConfig
from pedsup.engine.select import open_engine
from pedsup.errors import EngineError, PedsupError
from pedsup.files.records import record
from pedsup.files.source import Source
from pedsup_bench.report.document import describe_build
from pedsup_bench.report.texts import default_texts
from pedsup_bench.speed import device
from pedsup_bench.speed.bandwidth import measure_bandwidth
from pedsup_bench.speed.picture import see_pictures
from pedsup_bench.speed.plan import SpeedPlan
from pedsup_bench.speed.process_memory import engine_memory, engine_processes, process_fields
from pedsup_bench.speed.result import (
    Load,
    Resources,
    SeenPicture,
    Speed,
    State,
    Sustained,
)

Step = Callable[[], object]
"""Called when a step of `pedsup_bench.speed.progress.speed_steps` is done."""
SUSTAINED_STEP: Final = 64
"""Tokens of one stretch of the sustained run."""


@dataclass(frozen=True)
class Job:
    """What the parent asks for."""

    kind: Literal["load", "speed", "picture"]
    plan: SpeedPlan


def main() -> None:
    """Run the job on standard input; `{"step": 1}` for each step that is done, then the result."""
    job = record(Job, next(requests()), Source("the job", "standard input", EngineError))
    for procs in job.plan.cgroups:
        Path(procs).write_text(str(os.getpid()))
    try:
        if job.kind == "load":
            answer({"result": run_load(job.plan)})
        elif job.kind == "picture":
            answer({"result": run_picture(job.plan, lambda: answer({"step": 1}))})
        else:
            answer({"result": run_speed(job.plan, lambda: answer({"step": 1}))})
    except PedsupError as error:
        answer({"error": error.document()})


def run_load(plan: SpeedPlan) -> Load:
    """Load, read a prompt, write one token."""
    started = perf_counter()
    engine = _open(plan)
    loaded = perf_counter()
    tokens = prompt_tokens(engine, plan.first_prompt)
    for _ in engine.generate(tokens, greedy(engine), max_tokens=1):
        break
    first = perf_counter()
    taken = resources()
    result: Load = {
        "load_s": loaded - started,
        "first_token_s": first - loaded,
        "n_prompt": len(tokens),
        **taken,
    }
    engine.close()
    return result


def run_picture(plan: SpeedPlan, step: Step) -> SeenPicture:
    """Load model and projector, and see pictures."""
    engine = _open(plan, projector=plan.projector)
    step()
    found = see_pictures(plan, engine, prompt_tokens(engine, plan.repeats + 16), step)
    engine.close()
    return found


def run_speed(plan: SpeedPlan, step: Step) -> Speed:
    """Bandwidth, prompts, decode at depths, sustained decode, bandwidth again."""
    bandwidth = measure_bandwidth(plan.n_threads)
    step()
    engine = _open(plan)
    step()
    tokens = prompt_tokens(engine, plan.n_ctx + plan.repeats)
    sampling = greedy(engine)
    # The first pass maps pages, fills caches and wakes threads: not counted.
    _consume(engine, tokens[: min(plan.prompts)], sampling, 4)
    step()
    before = _state()
    prompt = {str(n): prompt_speed(engine, tokens, n, plan, step) for n in plan.prompts}
    decode = {str(d): decode_speed(engine, tokens, d, plan, step) for d in plan.depths}
    long = None
    if plan.sustained:
        long = sustained(engine, tokens, plan)
        step()
    after = _state()
    engine.close()
    bandwidth += measure_bandwidth(plan.n_threads)
    step()
    return {
        "engine": engine.name,
        "build": describe_build(engine.build),
        "n_ctx": engine.n_ctx,
        "before": before,
        "after": after,
        "prompt": prompt,
        "decode": decode,
        "bandwidth": bandwidth,
        "sustained": long,
    }


def prompt_speed(
    engine: Engine, tokens: Sequence[int], n: int, plan: SpeedPlan, step: Step
) -> list[float]:
    """Tokens per second of reading `n` tokens; each repeat starts at another token."""
    speeds = []
    for i in range(plan.repeats):
        _consume(engine, tokens[i : i + n], SamplingConfig(temperature=0.0), 0)
        stats = engine.last_stats
        speeds.append((stats.n_prompt - stats.n_cached) / stats.prompt_s)
        step()
    return speeds


def decode_speed(
    engine: Engine, tokens: Sequence[int], depth: int, plan: SpeedPlan, step: Step
) -> list[float]:
    """Tokens per second of writing after `depth` tokens; the prompt is read once."""
    sampling, prompt = greedy(engine), tokens[: max(depth, 1)]
    speeds = []
    _consume(engine, prompt, sampling, 0)
    step()
    for _ in range(plan.repeats):
        _consume(engine, prompt, sampling, plan.n_decode)
        stats = engine.last_stats
        # The first token comes with the prompt: one pass fewer than tokens.
        speeds.append((stats.n_generated - 1) / stats.decode_s)
        step()
    return speeds


def sustained(engine: Engine, tokens: Sequence[int], plan: SpeedPlan) -> Sustained:
    """Decode without a pause; throttling shows as the last window against the first."""
    sampling = greedy(engine)
    step = min(SUSTAINED_STEP, engine.n_ctx - 2)
    started = monotonic()
    samples, heat = [], [device.temperatures()]
    while (now := monotonic() - started) < plan.sustained:
        _consume(engine, tokens[:1], sampling, step)
        stats = engine.last_stats
        samples.append((now, stats.n_generated - 1, stats.decode_s))
    heat.append(device.temperatures())
    window = min(60.0, plan.sustained / 2)
    first = [s for s in samples if s[0] < window]
    last = [s for s in samples if s[0] >= plan.sustained - window] or samples[-1:]
    return {
        "seconds": plan.sustained,
        "window": window,
        "first": _rate(first),
        "last": _rate(last),
        "samples": [(t, n / s) for t, n, s in samples],
        "celsius_before": heat[0],
        "celsius_after": heat[1],
    }


def greedy(engine: Engine) -> SamplingConfig:
    """The most probable token that does not end the text."""
    return SamplingConfig(temperature=0.0, banned=tuple(sorted(engine.info.end_of_generation)))


def prompt_tokens(engine: Engine, n: int) -> list[int]:
    """`n` tokens of the shipped prose, repeated if need be."""
    text = "\n".join(text.content for text in default_texts())
    tokens = engine.tokenize(text, parse_special=False)
    return (tokens * (n // len(tokens) + 1))[:n]


def resources() -> Resources:
    """Memory, bytes from storage and major faults of `engine_processes`."""
    pids, memory = engine_processes(), engine_memory()
    return {
        "rss_anon": memory.anon,
        "rss_file": memory.file,
        "read_bytes": _sum(_io(pid) for pid in pids),
        "major_faults": _sum(_major_faults(pid) for pid in pids),
    }


def _major_faults(pid: int) -> int | None:
    fields = process_fields(pid)
    return int(fields[9]) if len(fields) > 9 else None


def _io(pid: int) -> int | None:
    """Bytes the process made the storage deliver, page faults included; None where denied."""
    try:
        text = Path(f"/proc/{pid}/io").read_text("ascii")
    except OSError:
        return None
    fields = dict(line.split(": ") for line in text.splitlines())
    return int(fields["read_bytes"])


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _state() -> State:
    return {**resources(), "celsius": device.temperatures(), "battery": device.battery()}


def _open(plan: SpeedPlan, projector: Path | None = None) -> Engine:
    config = EngineConfig(
        plan.model,
        n_ctx=plan.n_ctx,
        n_ubatch=plan.n_ubatch,
        n_threads=plan.n_threads,
        n_threads_batch=plan.n_threads,
        extra_buffers=plan.extra_buffers,
        adapter=plan.adapter,
        projector=projector,
    )
    return open_engine(config, plan.engine)


def _consume(engine: Engine, prompt: Sequence[int], sampling: SamplingConfig, n: int) -> None:
    for _ in engine.generate(list(prompt), sampling, max_tokens=n):
        pass


def _rate(samples: Sequence[tuple[float, int, float]]) -> float:
    return sum(n for _, n, _ in samples) / sum(s for _, _, s in samples)


if __name__ == "__main__":
    main()
