"""Texts about an adapter as a file of its own: its plan, and the finished file."""

from __future__ import annotations

import shlex

from pedsup.progress import human_bytes
from pedsup_export.plan.adapter_plan import AdapterFilePlan
from pedsup_export.plan.planner import unused_text
from pedsup_export.write.adapter_file import AdapterFile


def plan_text(plan: AdapterFilePlan) -> str:
    """What will be written, and everything that is left out."""
    lines = [
        f"architecture  {plan.bases[0].header.architecture}",
        *(f"base          {base.header.path}" for base in plan.bases),
        f"adapter       {plan.request.adapter.name}, {len(plan.changes)} matrices, "
        f"rank {', '.join(map(str, plan.ranks))}, alpha {plan.alpha:g}",
        f"type          {plan.request.kind}",
        f"output        {plan.request.out}",
        f"disk          {human_bytes(plan.output_bytes)}",
    ]
    lines += [f"unused delta  {unused_text(u)}" for u in plan.unused]
    return "\n".join([*lines, *(f"warning       {w}" for w in plan.warnings)])


def plan_json(plan: AdapterFilePlan) -> dict[str, object]:
    """The plan as a JSON document."""
    return {
        "architecture": plan.bases[0].header.architecture,
        "bases": [str(base.header.path) for base in plan.bases],
        "adapter": plan.request.adapter.name,
        "matrices": len(plan.changes),
        "ranks": plan.ranks,
        "alpha": plan.alpha,
        "type": plan.request.kind,
        "output": str(plan.request.out),
        "output_bytes": plan.output_bytes,
        "unused_deltas": [unused_text(u) for u in plan.unused],
        "warnings": list(plan.warnings),
    }


def result_text(plan: AdapterFilePlan, result: AdapterFile) -> str:
    """What was written, and how it is run."""
    model = shlex.quote(str(plan.bases[0].header.path))
    return (
        f"written   {result.path} ({human_bytes(result.size)})\n"
        f"manifest  {result.manifest}\n"
        f"sha256    {result.sha256}\n"
        f"run       pedsup-run {model} --adapter {shlex.quote(str(result.path))}"
    )
