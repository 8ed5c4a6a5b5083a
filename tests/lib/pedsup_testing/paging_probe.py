"""Run a model in a memory-limited group and count: `python paging_probe.py JOB.json`.

The job: model, engine (inprocess or server), config (fields of EngineConfig), procs (files to
join), prompt (its length), steps (tokens read one by one after it), greedy (tokens to generate
at the end). Prints one JSON document: bytes that storage delivered per step, the greedy tokens,
RssAnon and RssFile, and the mappings of the model: begin, end and resident bytes (`spans`).
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from pedsup.engine.api import Engine, EngineConfig, SamplingConfig


def main() -> None:
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    for procs in job.get("procs", []):
        Path(procs).write_text(str(os.getpid()))
    model = Path(job["model"])
    config = EngineConfig(
        model, **{"n_ctx": 512, "n_threads": 2, "n_threads_batch": 2, **job.get("config", {})}
    )
    engine = _open(job["engine"], config)
    pid = engine.child_pid or os.getpid()
    sampling = SamplingConfig(temperature=0.0)
    prompt = [100 + i for i in range(job.get("prompt", 16))]
    list(engine.generate(prompt, sampling, max_tokens=0))
    per_token, last = [], _read_bytes(pid)
    for step in range(job.get("steps", 0)):
        prompt.append(200 + step)
        list(engine.generate(prompt, sampling, max_tokens=0))
        now = _read_bytes(pid)
        per_token.append(now - last)
        last = now
    tokens = [t.id for t in engine.generate(prompt, sampling, max_tokens=job.get("greedy", 0))]
    print(json.dumps({
        "per_token": per_token, "tokens": tokens, "spans": spans(pid, model), **_resident(pid),
    }))  # fmt: skip
    engine.close()


def _open(name: str, config: EngineConfig) -> Engine:
    if name == "server":
        from pedsup.engine.llama_server.engine import ServerEngine

        return ServerEngine(config)
    from pedsup.engine.llama_cpp.inprocess import InProcessEngine

    return InProcessEngine(config)


def spans(pid: int, model: Path) -> list[list[int]]:
    """Mappings of the model in a process: [first byte, byte after the last, resident bytes]."""
    found: list[list[int]] = []
    path = str(model.resolve())
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if head := re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) \S+ \d+\s+(.*)", line):
            begin, end, offset = (int(x, 16) for x in head.groups()[:3])
            ours = head[4] == path
            if ours:
                found.append([offset, offset + end - begin, 0])
        elif line.startswith("Rss:") and ours:
            found[-1][2] = int(line.split()[1]) * 1024
    return found


def _read_bytes(pid: int) -> int:
    text = Path(f"/proc/{pid}/io").read_text()
    return int(dict(line.split(": ") for line in text.splitlines())["read_bytes"])


def _resident(pid: int) -> dict[str, int]:
    text = Path(f"/proc/{pid}/status").read_text()
    return {
        name: int(re.search(rf"{name}:\s*(\d+) kB", text)[1]) * 1024  # type: ignore[index]
        for name in ("RssAnon", "RssFile")
    }


if __name__ == "__main__":
    main()
