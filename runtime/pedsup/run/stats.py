"""What `/stats` shows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from pedsup.chat.events import TurnResult
from pedsup.device.system_files import numbers_of
from pedsup.engine.api import DraftStats
from pedsup.engine.drafts import draft_text
from pedsup.governor.policy import Reason
from pedsup.messages import Message, joined, message
from pedsup.progress import human_bytes
from pedsup.run.load import LoadedModel
from pedsup.session.conversation import turn_facts
from pedsup.texts.notices import STOPS
from pedsup.texts.safe import clean
from pedsup.tuning.apply import origin_text


def resident_memory() -> dict[str, int]:
    """RssAnon and RssFile of this process in bytes; empty if they cannot be read."""
    sizes = numbers_of(Path("/proc/self/status"))
    return {name: sizes[name] for name in ("RssAnon", "RssFile") if name in sizes}


def storage_read(pid: int) -> int | None:
    """Bytes that storage delivered to a process so far; None where that cannot be read.

    Much more than the file's size means that the model runs from storage.
    """
    return numbers_of(Path(f"/proc/{pid}/io")).get("read_bytes")


def stats_text(loaded: LoadedModel, last: TurnResult | None, session: str) -> Message:
    """What a user asks for first comes first: speed, the last turn, memory; then how it runs."""
    sampling = loaded.sampling
    lines = [
        *_turn_lines(loaded, last),
        *_memory_lines(loaded),
        *_governor_lines(loaded),
        *loaded.identity.lines(),
        message(
            "engine: {name}, {threads} (by {evidence}), context {ctx}",
            name=loaded.engine.name,
            threads=loaded.threads.count,
            evidence=loaded.threads.by,
            ctx=loaded.engine.n_ctx,
        ),
        *_build_lines(loaded),
        message("drafts: {how}", how=draft_text(loaded.config.draft).mapped(clean)),
        message("settings from: {origins}", origins=origin_text(loaded.origins)),
        message(
            "sampling: temperature {temp}, top-p {p}, top-k {k}, seed {seed}",
            temp=f"{sampling.temperature:g}",
            p=f"{sampling.top_p:g}",
            k=sampling.top_k,
            seed=sampling.seed,
        ),
        message("session: {id}", id=session or message("not kept")),
    ]
    return joined("\n", lines)


def _turn_lines(loaded: LoadedModel, last: TurnResult | None) -> list[str]:
    if last is None:
        return [message("speed: no answer yet; loaded in {s} s", s=f"{loaded.load_s:.1f}")]
    facts = turn_facts(last)
    tokens, timings = facts["tokens"], facts["timings"]
    lines: list[str] = [
        message(
            "speed: prompt {prompt}, decode {decode}, first token after {s} s",
            prompt=_rate(timings["prompt_tokens_per_s"]),
            decode=_rate(timings["decode_tokens_per_s"]),
            s=f"{timings['first_token_s']:.2f}",
        ),
        message(
            "last turn: prompt {prompt} tokens ({cached} from the cache), "
            "reasoning {reasoning}, answer {answer}; end: {reason}",
            prompt=tokens["prompt"],
            cached=tokens["cached"],
            reasoning=tokens["reasoning"],
            answer=tokens["answer"],
            reason=STOPS[last.stop_reason],
        ),
    ]
    if last.n_pictures:
        lines.append(_pictures(last))
    return [*lines, _drafts(last.drafts)] if last.drafts.n_drafted else lines


def _memory_lines(loaded: LoadedModel) -> list[str]:
    lines: list[str] = []
    memory = resident_memory()
    if len(memory) == 2:
        lines.append(
            message(
                "memory: {own} of its own (RssAnon), {files} of files (RssFile)",
                own=human_bytes(memory["RssAnon"]),
                files=human_bytes(memory["RssFile"]),
            )
        )
    read = storage_read(loaded.engine.child_pid or os.getpid())
    if read is not None:
        lines.append(message("read from storage so far: {size}", size=human_bytes(read)))
    return lines


def _build_lines(loaded: LoadedModel) -> list[str]:
    build = loaded.engine.build
    if build is None:
        return []
    warning = build.warning()
    return [
        message("built with: {features}", features=clean(", ".join(build.features))),
        *([warning] if warning else []),
    ]


def _governor_lines(loaded: LoadedModel) -> list[str]:
    """What the governor did, the last three changes."""
    governor = loaded.governor
    if governor is None:
        return []
    heat = governor.last_heat
    facts = [
        message(
            "governor: {n} of {most} threads",
            n=governor.state.threads,
            most=governor.limits.most,
        )
    ]
    if heat.cpu is not None:
        facts.append(message("cpu {n} °C", n=f"{heat.cpu:.0f}"))
    if heat.battery is not None:
        facts.append(message("battery {n} °C", n=f"{heat.battery:.0f}"))
    if governor.state.crowded:
        facts.append(message("other programs have the cores"))
    lines: list[str] = [joined(", ", facts)]
    now = governor.clock()
    for action in governor.actions[-3:]:
        would = message("would take") if action.kind == "report" else message("took")
        lines.append(
            message(
                "  {min} min ago {would} {n} threads ({reason}: {now} tokens/s, best {best})",
                min=f"{(now - action.at_s) / 60:.0f}",
                would=would,
                n=action.threads,
                reason=_CHANGES[action.reason],
                now=f"{action.now_tps:.1f}",
                best=f"{action.best_tps:.1f}",
            )
        )
    return lines


_CHANGES: Final[dict[Reason, Message]] = {
    "heat": message("heat"),
    "cooled": message("cooled down"),
    "rested": message("rested"),
    "not worth it": message("not worth it"),
    "slower than fewer threads": message("slower than with fewer threads"),
}


def _pictures(last: TurnResult) -> Message:
    if not last.timings.pictures_s:
        return message("pictures: {n} tokens of the prompt", n=last.n_pictures)
    return message(
        "pictures: {n} tokens of the prompt, seen and read in {s} s",
        n=last.n_pictures,
        s=f"{last.timings.pictures_s:.1f}",
    )


def _drafts(drafts: DraftStats) -> str:
    share = f"{100 * (drafts.acceptance or 0):.0f} %"
    return message(
        "drafts: {n} tokens, {ok} accepted ({share})",
        n=drafts.n_drafted,
        ok=drafts.n_accepted,
        share=share,
    )


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} tokens/s"
