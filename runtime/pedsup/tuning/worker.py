"""One loaded model that is measured: `python -m pedsup.tuning.worker`, a child of `tune`.

Reads JSON lines: first how to load, then what to measure. Prints one JSON line for each. Its
death, by an instruction that the processor lacks or by lack of memory, is a result for its parent.
"""

from __future__ import annotations

import json
import random
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pedsup.engine.api import Engine, EngineConfig, SamplingConfig
from pedsup.engine.select import open_engine
from pedsup.errors import PedsupError


def config_to_json(config: EngineConfig) -> dict[str, Any]:
    """`EngineConfig` as JSON values."""
    values = asdict(config)
    values["model"] = str(config.model)
    values["adapter"] = str(config.adapter) if config.adapter else None
    del values["draft"]  # none is measured
    values["cpus"] = sorted(config.cpus) if config.cpus else None
    return values


def config_from_json(values: dict[str, Any]) -> EngineConfig:
    """The inverse."""
    cpus = values.pop("cpus")
    model, adapter = Path(values.pop("model")), values.pop("adapter")
    return EngineConfig(
        model=model,
        cpus=frozenset(cpus) if cpus else None,
        adapter=Path(adapter) if adapter else None,
        **values,
    )


def measure(engine: Engine, task: dict[str, Any]) -> dict[str, float]:
    """Seconds to read a random prompt and to generate after it, greedily, past any end."""
    draw = random.Random(task["seed"])
    # Not the last tokens of the vocabulary: there are the placeholders.
    prompt = [draw.randrange(engine.info.n_vocab // 2) for _ in range(task["n_prompt"])]
    sampling = SamplingConfig(temperature=0.0, banned=tuple(engine.info.end_of_generation))
    started = time.perf_counter()
    stream = engine.generate(prompt, sampling, max_tokens=task["n_decode"] + 1)
    next(stream)
    first = time.perf_counter()
    n = sum(1 for _ in stream)
    return {"prompt_s": first - started, "decode_s": time.perf_counter() - first, "n_decode": n}


def main() -> None:
    """Serve until standard input ends."""
    lines = (json.loads(line) for line in sys.stdin)
    first = next(lines)
    started = time.perf_counter()
    try:
        engine = open_engine(config_from_json(first["config"]), first["engine"])
        _say({"engine": engine.name, "load_s": time.perf_counter() - started})
        try:
            for task in lines:
                if engine.adjustable:
                    engine.set_threads(task["threads"], task["threads_batch"])
                _say(measure(engine, task))
        finally:
            engine.close()
    except PedsupError as error:
        _say({"error": error.document()})


def _say(document: dict[str, Any]) -> None:
    print(json.dumps(document), flush=True)


if __name__ == "__main__":
    main()
