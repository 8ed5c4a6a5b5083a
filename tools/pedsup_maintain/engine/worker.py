"""One measurement of our engine in a process of its own: `python -m pedsup_maintain.engine.worker`.

Reads one JSON task from its argument and prints one JSON result. A fresh process is what a
start-up time, a peak of memory and another build of llama.cpp (LLAMA_CPP_LIB_PATH) need.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def status_bytes(field: str) -> int:
    """A field of /proc/self/status in bytes, e.g. 'VmHWM', 'RssAnon'."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return 0


def _engine(task: dict[str, Any]) -> Any:
    from pedsup.engine.api import EngineConfig
    from pedsup.engine.llama_cpp.inprocess import InProcessEngine

    threads = task["threads"]
    return InProcessEngine(
        EngineConfig(
            Path(task["model"]), n_ctx=task["n_ctx"], n_threads=threads, n_threads_batch=threads
        )
    )


def _drain(tokens: Any) -> None:
    for _ in tokens:
        pass


class _DecodeClock:
    """CPU time spent inside `llama_decode`, which no other load on the machine changes."""

    def __init__(self, engine: Any) -> None:
        self.seconds = 0.0
        self._step = engine._step
        engine._step = self

    def __call__(self, n_tokens: int) -> None:
        started = time.process_time()
        self._step(n_tokens)
        self.seconds += time.process_time() - started


def decode_share(engine: Any, sampling: Any, n_gen: int) -> float:
    """Which part of the generation loop's CPU time is llama.cpp's decoding; the rest is ours."""
    clock = _DecodeClock(engine)
    stream = engine.generate([1], sampling, max_tokens=n_gen)
    next(stream)
    started, before = time.process_time(), clock.seconds
    _drain(stream)
    return (clock.seconds - before) / (time.process_time() - started)


def speed(task: dict[str, Any]) -> dict[str, float]:
    """Best tokens per second of prompt and decode, sampling included; peak memory."""
    import random
    from dataclasses import replace

    from pedsup.engine.sampler import recommended_sampling
    from pedsup.gguf_file import read_header

    sampling = recommended_sampling(read_header(task["model"]))
    if task["greedy"]:
        sampling = replace(sampling, temperature=0.0)
    engine = _engine(task)
    sampling = replace(sampling, banned=tuple(engine.info.end_of_generation), seed=1)
    n_prompt, n_gen, draw = task["n_prompt"], task["n_gen"], random.Random(1)
    prompts, decodes = [], []
    for repeat in range(task["repeats"] + 1):
        prompt = [draw.randrange(engine.info.n_vocab) for _ in range(n_prompt)]
        _drain(engine.generate(prompt, sampling, max_tokens=0))
        if repeat:  # the first round warms up, as llama-bench's does
            prompts.append(n_prompt / engine.last_stats.prompt_s)
        started, n = time.perf_counter(), 0
        stream = engine.generate([draw.randrange(engine.info.n_vocab)], sampling, max_tokens=n_gen)
        for n, _ in enumerate(stream, start=1):
            if n == 1:
                started = time.perf_counter()
        if repeat:
            # Wall time of everything in the loop, not the engine's own account of it.
            decodes.append((n - 1) / (time.perf_counter() - started))
    return {
        "prompt_tps": max(prompts),
        "decode_tps": max(decodes),
        "peak_rss": status_bytes("VmHWM"),
        "anon_rss": status_bytes("RssAnon"),
        "decode_share": decode_share(engine, sampling, n_gen),
    }


def startup(task: dict[str, Any]) -> dict[str, float]:
    """Seconds from the process's start to the first prompt, and the model load inside them."""
    from pedsup.chat.events import TurnSettings
    from pedsup.chat.templates.template import ChatTemplate
    from pedsup.chat.turn import Turn
    from pedsup.gguf_file import read_header

    before = status_bytes("VmRSS")
    read_header(task["model"])
    started = time.perf_counter()
    engine = _engine(task)
    loaded = time.perf_counter()
    template = ChatTemplate.from_engine(engine)
    Turn(engine, template, [{"role": "user", "content": "Hello."}], TurnSettings())
    ready = time.time()
    return {
        "total_s": ready - task["spawned"],
        "load_s": loaded - started,
        "python_rss": before,
    }


def first_token(task: dict[str, Any]) -> dict[str, Any]:
    """Seconds from a loaded model to the first token of an answer after a long system prompt."""
    from pedsup.chat.events import TurnSettings
    from pedsup.chat.templates.template import ChatTemplate, Message
    from pedsup.chat.turn import Turn
    from pedsup.engine.api import EngineConfig
    from pedsup.gguf_file import read_header
    from pedsup.session.prefix_cache import PrefixCache, StateKey

    engine = _engine(task)
    template = ChatTemplate.from_engine(engine, allow_unknown=True)
    system: list[Message] = [{"role": "system", "content": task["system"]}]
    started = time.perf_counter()
    model = Path(task["model"])
    config = EngineConfig(model, n_ctx=task["n_ctx"])
    cache = PrefixCache(Path(task["cache"]), config, StateKey.of(read_header(model)))
    warmed = cache.warm(engine, template, system, think=False)
    messages: list[Message] = [*system, {"role": "user", "content": "Hello."}]
    stream = Turn(engine, template, messages, TurnSettings(think=False, max_tokens=1)).stream()
    next(stream)
    return {
        "seconds": time.perf_counter() - started,
        "source": warmed.source,
        "n_tokens": warmed.n_tokens,
    }


MODES = {"speed": speed, "startup": startup, "first_token": first_token}


def main() -> None:
    """Run the task given as JSON."""
    task = json.loads(sys.argv[1])
    print(json.dumps(MODES[task["mode"]](task)))


if __name__ == "__main__":
    main()
