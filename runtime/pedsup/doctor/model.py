"""Probes of one model: whether it fits here, and whether it was measured."""

from __future__ import annotations

import difflib
import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Final

from pedsup.doctor.device import Device
from pedsup.doctor.finding import Finding
from pedsup.errors import PedsupError, ResourceError
from pedsup.memory import available_memory
from pedsup.messages import joined, message
from pedsup.progress import human_bytes
from pedsup.run.plan import LaunchPlan, plan_launch
from pedsup.settings.schema import Settings

MODELS: Final = "pedsup"
"""The folder in the home folder into which install.sh puts the model."""


def model_fit(device: Device, model: Path | None, settings: Settings) -> list[Finding]:
    """The memory that a model takes, the context that fits, the next smaller option."""
    if model is None:
        return [Finding("model", "note", "model_none")]
    if not os.path.lexists(model):
        return [_missing(model)]
    try:
        plan = plan_launch(model, settings, available=available_memory(device.root))
    except PedsupError as error:
        parts = (error.found, error.where, error.wanted)
        values = {
            "reason": joined("; ", filter(None, parts)),
            "remedy": error.remedy or message("give a GGUF file of a supported model"),
        }
        return [Finding("model", "problem", "model_bad", values)]
    return [_fit(plan), _tuning(plan)]


def _missing(model: Path) -> Finding:
    """No such path: the nearest name of a model in that folder, or where install.sh puts them."""
    found: dict[str, Path] = {}
    for folder in (model.parent, Path.home() / MODELS):
        with suppress(OSError):
            names = sorted(p for p in folder.iterdir() if p.name.endswith(".gguf"))
            found.update({path.name: path for path in names if path.name not in found})
    near = difflib.get_close_matches(model.name, found, n=1)
    if not near and len(found) == 1:
        near = list(found)
    values = {"path": str(model)}
    if not near:
        return Finding("model", "problem", "model_missing", values)
    values["near"] = shlex.quote(str(found[near[0]]))
    return Finding("model", "problem", "model_elsewhere", values)


def _fit(plan: LaunchPlan) -> Finding:
    need, available = plan.fit.need, plan.fit.available
    values = {
        "name": plan.identity.name,
        "need": human_bytes(need.total),
        "anonymous": human_bytes(need.anonymous),
        "ctx": plan.config.n_ctx,
        "largest": plan.largest_ctx or "-",
        "available": human_bytes(available.bytes) if available else "?",
    }
    try:
        plan.room.require(plan.config)
    except ResourceError as error:
        key = "model_pages" if plan.fit.verdict == "pages" else "model_refused"
        return Finding("model", "problem", key, {**values, "remedy": error.remedy or "-"})
    return Finding("model", "ok", "model_fits", values)


def _tuning(plan: LaunchPlan) -> Finding:
    tuned = plan.tuned
    if tuned is None:
        return Finding("tuning", "note", "not_tuned", {"file": str(plan.header.path)})
    values = {"date": tuned.measured[:10], "values": tuned.summary()}
    return Finding("tuning", "ok", "tuned", values)
