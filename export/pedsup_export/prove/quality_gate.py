"""The quality gate of an export: the finished file, before it gets its name, against a reference.

The reference is the same merge in 16 or 32 bits. The measuring belongs to the bench stage; it is
imported only when a gate is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pedsup.files.fsio import sha256_file
from pedsup.optional import require
from pedsup.progress import say
from pedsup.trust.manifest import QualityFacts
from pedsup_export.plan.request import ExportRequest


def pass_gate(
    request: ExportRequest, file: Path, texts: Sequence[Mapping[str, object]] = ()
) -> dict[str, object] | None:
    """Measure `file` and refuse it below the thresholds; the figures for the manifest.

    Args:
        texts: those that it was calibrated on, as the statistics describe them.

    Returns:
        The gate's document, or None when no gate was asked for.

    Raises:
        GateError: a figure breaches its threshold; the message says which and by how much.
    """
    if request.gate_reference is None:
        return None
    gate = require("pedsup_bench.gate.run", extra="bench")
    check = require("pedsup_bench.gate.check", extra="bench")
    overlap = require("pedsup_bench.report.overlap", extra="bench")
    say(f"quality gate: against {request.gate_reference.name}")
    document: dict[str, object] = gate.run_gate(
        gate.GatePlan(
            file,
            request.gate_reference,
            thresholds=request.gate_thresholds,
            examples=request.gate_examples,
            n_threads=request.threads,
            calibrated_on=overlap.sketches_in(texts),
        )
    )
    check.require_pass(document)
    return {
        "reference": request.gate_reference.name,
        "file_type": document["file_type"],
        "figures": document["figures"],
        "checks": document["checks"],
        "task": document["task"],
    }


def same_gate(request: ExportRequest, passed: QualityFacts | None) -> bool:
    """Whether the gate asked for (none: any) is one that a manifest says was passed."""
    if request.gate_reference is None:
        return True
    if passed is None or passed.reference != request.gate_reference.name:
        return False
    gate = require("pedsup_bench.gate.thresholds", extra="bench")
    _, limits = gate.thresholds_for(request.out, gate.read_thresholds(request.gate_thresholds))
    wanted = {name: limit for name, limit in vars(limits).items() if limit is not None}
    recorded = {check.figure: check.limit for check in passed.checks}
    # The gate of an export asks no questions: their limit is not judged.
    not_judged = {*gate.ASKED_FOR["questions"]}
    examples = None
    if request.gate_examples is None:
        not_judged |= {*gate.ASKED_FOR["examples"]}
    else:
        examples = sha256_file(request.gate_examples)
    judged = (passed.task or {}).get("examples")
    if (judged.get("sha256") if isinstance(judged, Mapping) else None) != examples:
        return False
    return recorded == {name: limit for name, limit in wanted.items() if name not in not_judged}


def gate_text(passed: QualityFacts) -> str:
    """One line for people: each figure and its limit."""
    shown = ", ".join(f"{c.figure} {c.value:.4g} of {c.limit:.4g}" for c in passed.checks)
    return f"passed against {passed.reference} ({shown})"
