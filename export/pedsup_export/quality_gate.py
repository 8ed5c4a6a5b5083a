"""The quality gate of an export: the finished file, before it gets its name, against a reference.

The reference is the same merge in 16 or 32 bits. The measuring belongs to the bench stage; it is
imported only when a gate is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pedsup.optional import require
from pedsup.progress import say
from pedsup_export.request import ExportRequest


def pass_gate(request: ExportRequest, file: Path) -> dict[str, Any] | None:
    """Measure `file` and refuse it below the thresholds; the figures for the manifest.

    Returns:
        The gate's document, or None when no gate was asked for.

    Raises:
        GateError: a figure breaches its threshold; the message says which and by how much.
    """
    if request.gate_reference is None:
        return None
    gate = require("pedsup_bench.gate", extra="bench")
    say(f"quality gate: against {request.gate_reference.name}")
    document: dict[str, Any] = gate.run_gate(
        gate.GatePlan(
            file,
            request.gate_reference,
            thresholds=request.gate_thresholds,
            n_threads=request.threads,
        )
    )
    gate.require_pass(document)
    return {
        "reference": request.gate_reference.name,
        "file_type": document["file_type"],
        "figures": document["figures"],
        "checks": document["checks"],
    }


def gate_text(figures: dict[str, Any]) -> str:
    """One line for people: each figure and its limit."""
    checks = figures["checks"]
    shown = ", ".join(f"{c['figure']} {c['value']:.4g} of {c['limit']:.4g}" for c in checks)
    return f"passed against {figures['reference']} ({shown})"
