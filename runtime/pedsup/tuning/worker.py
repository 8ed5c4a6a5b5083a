"""One loaded model that is measured: `python -m pedsup.tuning.worker`, a child of `tune`.

Reads JSON lines: first how to load, then what to measure. Prints one JSON line for each. Its
death, by an instruction that the processor lacks or by lack of memory, is a result for its parent.
"""

from __future__ import annotations

import random
import time
from dataclasses import asdict, dataclass
from typing import Final, Literal

from pedsup.child.lines import answer, requests
from pedsup.engine.api import Engine, EngineConfig, SamplingConfig
from pedsup.engine.select import open_engine
from pedsup.errors import EngineError, PedsupError
from pedsup.files.records import record
from pedsup.files.source import Source

FROM_PARENT: Final = Source("the order", "standard input", error=EngineError)
FROM_CHILD: Final = Source("the answer", "tuning.worker", error=EngineError)


def config_to_json(config: EngineConfig) -> dict[str, object]:
    values = asdict(config)
    values["model"] = str(config.model)
    values["adapter"] = str(config.adapter) if config.adapter else None
    values["projector"] = None  # no picture is shown
    del values["draft"]  # none is measured
    values["cpus"] = sorted(config.cpus) if config.cpus else None
    return values


@dataclass(frozen=True)
class Task:
    """What to measure: tokens to read and to write, with so many threads."""

    threads: int
    threads_batch: int
    n_prompt: int
    n_decode: int
    seed: int


@dataclass(frozen=True)
class Ready:
    """The model is loaded."""

    engine: str
    load_s: float


@dataclass(frozen=True)
class Seconds:
    """What a task took."""

    prompt_s: float
    decode_s: float
    n_decode: int


@dataclass(frozen=True)
class First:
    """How the model is loaded."""

    config: EngineConfig
    engine: Literal["auto", "inprocess", "server"]


def measure(engine: Engine, task: Task) -> Seconds:
    """Seconds to read a random prompt and to generate after it, greedily, past any end."""
    draw = random.Random(task.seed)
    # Not the last tokens of the vocabulary: there are the placeholders.
    prompt = [draw.randrange(engine.info.n_vocab // 2) for _ in range(task.n_prompt)]
    sampling = SamplingConfig(temperature=0.0, banned=tuple(engine.info.end_of_generation))
    started = time.perf_counter()
    stream = engine.generate(prompt, sampling, max_tokens=task.n_decode + 1)
    next(stream)
    first = time.perf_counter()
    n = sum(1 for _ in stream)
    return Seconds(first - started, time.perf_counter() - first, n)


def main() -> None:
    asked = requests()
    first = record(First, next(asked), FROM_PARENT)
    started = time.perf_counter()
    try:
        engine = open_engine(first.config, first.engine)
        answer(asdict(Ready(engine.name, time.perf_counter() - started)))
        try:
            for request in asked:
                task = record(Task, request, FROM_PARENT)
                if engine.adjustable:
                    engine.set_threads(task.threads, task.threads_batch)
                answer(asdict(measure(engine, task)))
        finally:
            engine.close()
    except PedsupError as error:
        answer({"error": error.document()})


if __name__ == "__main__":
    main()
