"""`pedsup-run --check`: what a model will take, before it is loaded."""

from __future__ import annotations

from dataclasses import asdict

from pedsup.engine.drafts import draft_text
from pedsup.engine.vector_units import Build
from pedsup.memory import MemoryEstimate
from pedsup.progress import human_bytes
from pedsup.run.load import LaunchPlan
from pedsup.texts.language import local, spoken
from pedsup.texts.safe import clean
from pedsup.tuning.apply import origin_text
from pedsup.tuning.store import NAMES


def check_document(plan: LaunchPlan, build: Build | None = None) -> dict[str, object]:
    """The check as JSON values; sizes in bytes. `build`: of the engine's library, if known."""
    need, available = plan.fit.need, plan.fit.available
    return {
        "schema": "pedsup-check/1",
        "model": plan.identity.describe(),
        "trust": plan.trust.describe(),
        "architecture": plan.shape.architecture,
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
        "build": build.describe() if build else None,
    }


def check_text(plan: LaunchPlan, build: Build | None = None) -> str:
    """The check as a table. `build`: of the engine's library, if known."""
    available = plan.fit.available
    cpus = ",".join(map(str, sorted(plan.threads.cpus))) if plan.threads.cpus else "all allowed"
    lines = [
        *plan.identity.lines(),
        *map(clean, plan.trust.lines(spoken())),
        f"{plan.shape.architecture}, {len(plan.shape.layers)} layers, "
        f"trained for a context of {plan.shape.n_ctx_train} tokens",
        "",
        f"Memory for a context of {plan.config.n_ctx} tokens:",
        *_rows(plan.fit.need),
        "",
        f"Available: {human_bytes(available.bytes)} ({available.source})"
        if available
        else "Available: unknown (nothing can be read here)",
        _VERDICTS[plan.fit.verdict],
        *([f"  {plan.fit.paging.text}"] if plan.fit.paging else []),
        f"Largest context that fits: {plan.largest_ctx or 'none'}",
        f"Threads: {plan.threads.n_threads} on cores {cpus} (by {plan.threads.evidence})",
        clean(f"Drafts: {draft_text(plan.config.draft)}"),
        f"Settings from: {origin_text(plan.origins)}",
        *_tuning(plan),
        *_built(build),
    ]
    return "\n".join(lines)


def _built(build: Build | None) -> list[str]:
    """What the engine's library was built with."""
    if build is None:
        return ["Built with: unknown, llama.cpp does not say"]
    warning = build.warning()
    return [f"Built with: {clean(', '.join(build.features))}", *([warning] if warning else [])]


def _tuning(plan: LaunchPlan) -> list[str]:
    """Whether what `tune` measured is used."""
    if plan.lookup.problem:
        return [f"Tuned: no, {plan.lookup.problem}"]
    if plan.lookup.stale:
        return [f"Tuned: for another {plan.lookup.stale}; pedsup-run tune measures again"]
    if plan.tuned is None:
        return []
    return [clean(f"Tuned: {plan.tuned.measured[:10]}, {plan.tuned.summary()}")]


def _paging(plan: LaunchPlan) -> dict[str, object] | None:
    cost = plan.fit.paging
    if cost is None:
        return None
    return {**asdict(cost), "most_tokens_per_s": cost.speed, "asked_for": not cost.bearable}


_VERDICTS = {
    "fits": "Verdict: fits.",
    "pages": "Verdict: too large to stay in memory; runs from storage, slowly.",
    "refused": "Verdict: does not fit; the system would kill it.",
}


def _rows(need: MemoryEstimate) -> list[str]:
    sizes = [
        ("weights" + (" (mapped from the file)" if need.mapped else ""), need.weights),
        ("key/value cache", need.kv_cache),
        ("checkpoints of it", need.checkpoints),
        ("compute buffers", need.compute + need.output),
        ("vocabulary", need.vocabulary),
        ("repacked copies", need.repacked),
        ("draft model", need.draft_weights + need.draft),
        ("this program", need.program),
        ("total", need.total),
    ]
    rows = [f"  {local(name):<34}{human_bytes(size):>12}" for name, size in sizes if size]
    if need.table:
        rows.append(
            f"  not counted: {human_bytes(need.table)} of per-layer table, which stays in the file"
        )
    return rows
