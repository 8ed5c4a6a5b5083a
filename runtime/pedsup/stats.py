"""What `/stats` shows."""

from __future__ import annotations

import os
from pathlib import Path

from pedsup.chat.turn import TurnResult
from pedsup.conversation import turn_facts
from pedsup.progress import human_bytes
from pedsup.startup import LoadedModel


def resident_memory() -> dict[str, int]:
    """RssAnon and RssFile of this process in bytes; empty where they cannot be read."""
    sizes = {}
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    except OSError:
        return {}
    for line in lines:
        name, _, value = line.partition(":")
        if name in ("RssAnon", "RssFile"):
            sizes[name] = int(value.split()[0]) * 1024
    return sizes


def storage_read(pid: int) -> int | None:
    """Bytes that storage delivered to a process so far; None where that cannot be read.

    Much more than the file's size means that the model runs from storage.
    """
    try:
        lines = Path(f"/proc/{pid}/io").read_text("ascii").splitlines()
    except OSError:
        return None
    values = dict(line.split(": ", 1) for line in lines if ": " in line)
    number = values.get("read_bytes", "")
    return int(number) if number.isdecimal() else None


def stats_text(loaded: LoadedModel, last: TurnResult | None, session: str) -> str:
    """A few lines on the model, the last turn and memory."""
    sampling = loaded.sampling
    lines = [
        *loaded.identity.lines(),
        f"engine: {loaded.engine.name}, {loaded.threads.n_threads} threads "
        f"(by {loaded.threads.evidence}), context {loaded.engine.n_ctx}",
        f"sampling: temperature {sampling.temperature:g}, top-p {sampling.top_p:g}, "
        f"top-k {sampling.top_k}, seed {sampling.seed}",
    ]
    if last is not None:
        facts = turn_facts(last)
        tokens, timings = facts["tokens"], facts["timings"]
        lines += [
            f"last turn: prompt {tokens['prompt']} tokens ({tokens['cached']} from the cache), "
            f"reasoning {tokens['reasoning']}, answer {tokens['answer']}, ended by "
            f"{last.stop_reason}",
            f"speed: prompt {_rate(timings['prompt_tokens_per_s'])}, "
            f"decode {_rate(timings['decode_tokens_per_s'])}, "
            f"first token after {timings['first_token_s']:.2f} s",
        ]
    memory = resident_memory()
    if memory:
        lines.append(
            "memory: "
            + ", ".join(f"{name} {human_bytes(size)}" for name, size in sorted(memory.items()))
        )
    read = storage_read(getattr(loaded.engine, "pid", os.getpid()))
    if read is not None:
        lines.append(f"read from storage so far: {human_bytes(read)}")
    lines.append(f"session: {session or 'not kept'}")
    return "\n".join(lines)


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} tokens/s"
