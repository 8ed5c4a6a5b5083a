"""What `/stats` shows."""

from __future__ import annotations

import os
from pathlib import Path

from pedsup.chat.turn import TurnResult
from pedsup.engine.api import DraftStats
from pedsup.engine.drafts import draft_text
from pedsup.progress import human_bytes
from pedsup.run.load import LoadedModel
from pedsup.session.conversation import turn_facts
from pedsup.texts.safe import clean
from pedsup.tuning.apply import origin_text


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
        *_build_lines(loaded),
        f"drafts: {clean(draft_text(loaded.config.draft))}",
        f"settings from: {origin_text(loaded.origins)}",
        *_governor_lines(loaded),
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
        if last.drafts.n_drafted:
            lines.append(_drafts(last.drafts))
    memory = resident_memory()
    if memory:
        lines.append(
            "memory: "
            + ", ".join(f"{name} {human_bytes(size)}" for name, size in sorted(memory.items()))
        )
    read = storage_read(loaded.engine.child_pid or os.getpid())
    if read is not None:
        lines.append(f"read from storage so far: {human_bytes(read)}")
    lines.append(f"session: {session or 'not kept'}")
    return "\n".join(lines)


def _build_lines(loaded: LoadedModel) -> list[str]:
    """What the engine's library was built with."""
    build = loaded.build
    if build is None:
        return []
    warning = build.warning()
    return [f"built with: {clean(', '.join(build.features))}", *([warning] if warning else [])]


def _governor_lines(loaded: LoadedModel) -> list[str]:
    """What the governor did, the last three changes."""
    governor = loaded.governor
    if governor is None:
        return []
    heat = governor.last_heat
    known = (("cpu", heat.cpu), ("battery", heat.battery))
    degrees = "".join(f", {name} {value:.0f} °C" for name, value in known if value is not None)
    busy = ", other programs have the cores" if governor.state.crowded else ""
    more = degrees + busy
    lines = [f"governor: {governor.state.threads} of {governor.limits.most} threads{more}"]
    now = governor.clock()
    for action in governor.actions[-3:]:
        would = "would take" if action.kind == "report" else "took"
        lines.append(
            f"  {(now - action.at_s) / 60:.0f} min ago {would} {action.threads} threads "
            f"({action.reason}: {action.now_tps:.1f} tokens/s, best {action.best_tps:.1f})"
        )
    return lines


def _drafts(drafts: DraftStats) -> str:
    share = f"{100 * (drafts.acceptance or 0):.0f} %"
    return f"drafts: {drafts.n_drafted} tokens, {drafts.n_accepted} accepted ({share})"


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} tokens/s"
