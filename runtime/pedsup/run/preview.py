"""`pedsup-run --check`: what a model will take, before it is loaded."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from pedsup.device.cores import ThreadPlan
from pedsup.engine.drafts import draft_text
from pedsup.engine.vector_units import Build
from pedsup.escape import escaped
from pedsup.memory import MemoryEstimate
from pedsup.memory.fit import Verdict
from pedsup.messages import Message, joined, message
from pedsup.progress import human_bytes
from pedsup.run.plan import LaunchPlan
from pedsup.texts.language import translated
from pedsup.texts.safe import clean
from pedsup.texts.screen import LEAST
from pedsup.tuning.apply import origin_text
from pedsup.tuning.store import NAMES, Stale

TABLE: Final = 48
"""Columns of the table of sizes, where the terminal has as many."""


def check_document(plan: LaunchPlan, build: Build | None = None) -> dict[str, object]:
    """The check as JSON values; sizes in bytes. `build`: of the engine's library, if known."""
    need, available = plan.fit.need, plan.fit.available
    return {
        "schema": "pedsup-check/1",
        "model": plan.identity.describe(),
        "trust": plan.trust.describe(),
        "architecture": plan.shape.architecture,
        "unchecked": plan.unchecked,
        "n_ctx": plan.config.n_ctx,
        "n_ctx_train": plan.shape.n_ctx_train,
        "largest_ctx": plan.largest_ctx,
        "verdict": plan.fit.verdict,
        "need": {
            **asdict(need),
            "anonymous": need.anonymous,
            "file_backed": need.file_backed,
            "total": need.total,
        },
        "available": asdict(available) if available else None,
        "paging": _paging(plan),
        "threads": plan.threads.n_threads,
        "cpus": sorted(plan.threads.cpus) if plan.threads.cpus else None,
        "threads_by": plan.threads.evidence,
        "threads_batch": plan.config.n_threads_batch,
        "batch": plan.config.n_batch,
        "ubatch": plan.config.n_ubatch,
        "extra_buffers": plan.config.extra_buffers,
        "mmap": plan.config.use_mmap,
        "origins": {name: plan.origins.get(name, "default") for name in NAMES},
        "tuned": plan.tuned.measured if plan.tuned else None,
        "tuned_problem": plan.lookup.problem or plan.lookup.stale,
        "governor": plan.governed,
        "sight": _sight_document(plan),
        "build": build.describe() if build else None,
    }


def check_text(plan: LaunchPlan, build: Build | None = None, columns: int | None = None) -> Message:
    """The check as a table.

    Args:
        build: of the engine's library, if known.
        columns: of the terminal; None if lines may be of any length.
    """
    available = plan.fit.available
    lines = [
        *plan.identity.lines(),
        *(line.mapped(clean) for line in plan.trust.lines()),
        *([plan.unchecked.mapped(clean)] if plan.unchecked else []),
        message(
            "{arch}, {n} layers, trained for a context of {ctx} tokens",
            arch=plan.shape.architecture,
            n=len(plan.shape.layers),
            ctx=plan.shape.n_ctx_train,
        ),
        "",
        message("Memory for a context of {n} tokens:", n=plan.config.n_ctx),
        *_rows(plan.fit.need, columns),
        "",
        message(
            "Available: {size} ({source})",
            size=human_bytes(available.bytes),
            source=available.source,
        )
        if available
        else message("Available: unknown (nothing here reports it)"),
        _VERDICTS[plan.fit.verdict],
        *([joined("", ["  ", plan.fit.paging.text])] if plan.fit.paging else []),
        message("Largest context that fits: {n}", n=plan.largest_ctx or message("none")),
        _threads(plan.threads),
        *_sight(plan),
        message("Drafts: {how}", how=draft_text(plan.config.draft).mapped(clean)),
        message("Settings from: {origins}", origins=origin_text(plan.origins)),
        *_tuning(plan),
        *_built(build),
    ]
    return joined("\n", lines)


def _sight(plan: LaunchPlan) -> list[str]:
    if plan.sight is None:
        return [message("Pictures: no, there is no projector")]
    if plan.blind is not None:
        return [message("Pictures: no, {reason}", reason=plan.blind)]
    projector = plan.sight.projector
    name = escaped(projector.header.path.name)
    if not projector.known:
        return [message("Pictures: yes, through {name}; their cost is not known", name=name)]
    tokens = projector.most_tokens(plan.config.picture_tokens)
    return [
        message(
            "Pictures: yes, through {name}; each takes up to {n} tokens of the context; its time "
            "is not predicted",
            name=name,
            n=tokens,
        )
    ]


def _sight_document(plan: LaunchPlan) -> dict[str, object] | None:
    if plan.sight is None:
        return None
    projector = plan.sight.projector
    return {
        "projector": projector.header.path.name,
        "kind": projector.kind,
        "in_use": plan.config.projector is not None,
        "reason": plan.blind,
        "tokens": projector.most_tokens(plan.config.picture_tokens) if projector.known else None,
        "bytes": plan.fit.need.projector,
        "audio_unused": projector.audio,
    }


def _threads(threads: ThreadPlan) -> Message:
    if not threads.cpus:
        return message(
            "Threads: {n} on any core (by {evidence})", n=threads.n_threads, evidence=threads.by
        )
    return message(
        "Threads: {n} on cores {cores} (by {evidence})",
        n=threads.n_threads,
        cores=",".join(map(str, sorted(threads.cpus))),
        evidence=threads.by,
    )


def _built(build: Build | None) -> list[str]:
    if build is None:
        return [message("Built with: unknown, llama.cpp does not say")]
    warning = build.warning()
    return [
        message("Built with: {features}", features=clean(", ".join(build.features))),
        *([warning] if warning else []),
    ]


def _tuning(plan: LaunchPlan) -> list[str]:
    """Whether what `tune` measured is used."""
    if plan.lookup.problem:
        return [message("Tuned: no, {reason}", reason=plan.lookup.problem)]
    if plan.lookup.stale:
        return [_STALE[plan.lookup.stale]]
    if plan.tuned is None:
        return []
    return [
        message(
            "Tuned: {date}, {values}",
            date=clean(plan.tuned.measured[:10]),
            values=clean(plan.tuned.summary()),
        )
    ]


def _paging(plan: LaunchPlan) -> dict[str, object] | None:
    cost = plan.fit.paging
    if cost is None:
        return None
    return {**asdict(cost), "most_tokens_per_s": cost.speed, "asked_for": not cost.bearable}


_VERDICTS: Final[dict[Verdict, Message]] = {
    "fits": message("Verdict: fits."),
    "pages": message("Verdict: too large to stay in memory; runs from storage, slowly."),
    "refused": message("Verdict: does not fit; the system would kill it."),
}
_STALE: Final[dict[Stale, Message]] = {
    "engine": message("Tuned: for another engine; pedsup-run tune measures again"),
    "device": message("Tuned: for another device; pedsup-run tune measures again"),
}


def _rows(need: MemoryEstimate, columns: int | None) -> list[str]:
    weights = message("weights (mapped from the file)") if need.mapped else message("weights")
    sizes = [
        (weights, need.weights),
        (message("key/value cache"), need.kv_cache),
        (message("its checkpoints"), need.checkpoints),
        (message("compute buffers"), need.compute + need.output),
        (message("vocabulary"), need.vocabulary),
        (message("repacked copies"), need.repacked),
        (message("adapter"), need.adapter),
        (message("projector, with the first picture"), need.projector),
        (message("draft model"), need.draft_weights + need.draft),
        (message("this program"), need.program),
        (message("total"), need.total),
    ]
    # Columns have a width, which only the text in the reader's language has.
    rows = [_row(translated(name), human_bytes(size), columns) for name, size in sizes if size]
    if need.table:
        rows.append(
            message(
                "  not counted: the per-layer table of {size}, which stays in the file",
                size=human_bytes(need.table),
            )
        )
    return rows


def _row(name: str, size: str, columns: int | None) -> str:
    """A name and its size; where the terminal is narrower than both, the size goes below."""
    width = TABLE if columns is None else max(min(columns, TABLE), LEAST)
    gap = width - len(name) - len(size) - 2
    return f"  {name}{' ' * gap}{size}" if gap > 0 else f"  {name}\n{size:>{width}}"
