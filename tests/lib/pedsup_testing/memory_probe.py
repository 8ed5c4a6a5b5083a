"""Load a model in this process and say what llama.cpp logs and what the kernel counts.

    python memory_probe.py reported MODEL '{"n_ctx": 4096, ...}'   sizes as llama.cpp logs them
    python memory_probe.py measured MODEL '{"n_ctx": 4096, ...}'   RssAnon and RssFile growth

`reported` asks llama.cpp not to allocate, so that a model of any size can be asked about.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any


def reported(model: str, options: dict[str, Any]) -> dict[str, float]:
    """MiB by llama.cpp's own log."""
    import ctypes

    from pedsup.engine.llama_cpp import bindings

    lib = bindings.load()
    lines: list[str] = []
    keep = lib.llama_log_callback(lambda _level, text, _data: lines.append(text.decode()))
    lib.llama_log_set(keep, ctypes.c_void_p(0))
    params = lib.llama_model_default_params()
    params.no_alloc, params.load_mode = True, 0
    params.use_extra_bufts = options.get("extra_buffers", False)
    if options.get("extra_buffers"):
        params.no_alloc, params.load_mode = False, 1
    handle = lib.llama_model_load_from_file(model.encode(), params)
    assert handle, "".join(lines[-5:])
    context = lib.llama_context_default_params()
    context.n_ctx = options["n_ctx"]
    context.n_batch = context.n_ubatch = options.get("n_ubatch", 512)
    context.n_outputs_max, context.swa_full = 1, False
    assert lib.llama_init_from_model(handle, context), "".join(lines[-5:])
    log = "".join(lines)
    return {
        "kv_cache": _sum(r"llama_kv_cache: size =\s*([\d.]+) MiB", log),
        "compute": _sum(r"CPU compute buffer size =\s*([\d.]+) MiB", log),
        "output": _sum(r"output buffer size =\s*([\d.]+) MiB", log),
        "repacked": _sum(r"(?:CPU_REPACK|AMX) model buffer size =\s*([\d.]+) MiB", log),
    }


def measured(model: str, options: dict[str, Any]) -> dict[str, float]:
    """MiB that this process grew by when pedsup's engine had loaded a model and read a prompt."""
    from pedsup.engine.api import EngineConfig, SamplingConfig
    from pedsup.engine.llama_cpp import bindings
    from pedsup.engine.llama_cpp.inprocess import InProcessEngine

    bindings.load()
    before = resident()
    config = EngineConfig(Path(model), n_threads=1, n_threads_batch=1, **options)
    engine = InProcessEngine(config)
    prompt = [5 + i % 200 for i in range(600)]  # more than a batch: all buffers are used
    list(engine.generate(prompt, SamplingConfig(temperature=0.0), max_tokens=2))
    after = resident()
    return {name: after[name] - before[name] for name in after}


def resident() -> dict[str, float]:
    """RssAnon and RssFile of this process in MiB."""
    text = Path("/proc/self/status").read_text()
    return {
        name: int(re.search(rf"{name}:\s*(\d+) kB", text)[1]) / 1024  # type: ignore[index]
        for name in ("RssAnon", "RssFile")
    }


def _sum(pattern: str, log: str) -> float:
    return sum(float(value) for value in re.findall(pattern, log))


if __name__ == "__main__":
    function = {"reported": reported, "measured": measured}[sys.argv[1]]
    print(json.dumps(function(sys.argv[2], json.loads(sys.argv[3]))))
