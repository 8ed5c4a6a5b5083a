"""Plans, reports and results as text for people and as JSON for programs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from pedsup.progress import human_bytes
from pedsup_export.allocation.command import FLASH_PRICE
from pedsup_export.arch import gemma4_assistant
from pedsup_export.plan.export_plan import ExportPlan, TensorPlan
from pedsup_export.plan.planner import unused_text
from pedsup_export.plan.savings import savings_json, savings_lines
from pedsup_export.prove.quality_gate import gate_text
from pedsup_export.prove.verify import VerifyReport
from pedsup_export.write.publish import ExportResult


def plan_text(plan: ExportPlan, *, tensors: bool = False) -> str:
    """The plan in short, after the table of its tensors if that is asked for."""
    return "\n\n".join([*([tensor_table(plan)] if tensors else []), summary_text(plan)])


def tensor_table(plan: ExportPlan) -> str:
    """One line per tensor: where it comes from, what it becomes, and why."""
    width = max(len(t.slot.name) for t in plan.all_tensors)
    lines = [
        f"{'tensor':<{width}}  {'shape':>15}  {'from':<9} {'adapter':<7} {'type':<6} "
        f"{'size':>11}  why",
    ]
    for t in plan.all_tensors:
        shape = "x".join(map(str, t.slot.shape))
        lines.append(
            f"{t.slot.name:<{width}}  {shape:>15}  {t.source_dtype:<9} "
            f"{'yes' if t.adapted else '-':<7} {t.slot.type.name:<6} "
            f"{human_bytes(t.slot.n_bytes):>11}  {t.choice.reason}"
        )
    return "\n".join(lines)


def summary_text(plan: ExportPlan) -> str:
    """The plan in short: mixture, sizes, and everything that is left out."""
    adapted = sum(t.adapted for t in plan.tensors)
    weights = sum(t.n_rows * t.slot.shape[0] for t in plan.tensors)
    bits = 8 * sum(t.slot.n_bytes for t in plan.tensors) / weights
    mixture = ", ".join(f"{v['tensors']} {k}" for k, v in plan.mixture().items())
    request = plan.request
    lines = [
        f"architecture  {plan.architecture}",
        f"base          {request.base.name}"
        + (f", merged into {request.base_4bit.name}" if request.merge_base == "4bit" and
           request.base_4bit else ""),
        f"adapter       {request.adapter.name if request.adapter else 'none'}"
        + (f", in {adapted} of {len(plan.tensors)} tensors" if request.adapter else ""),
        f"type          {plan.file_type.name} ({mixture}), {bits:.2f} bits per weight",
        "merge         in float32"
        + ("" if request.merge_dtype == "float32" else f", rounded to {request.merge_dtype}"),
        *_grid_lines(plan),
        f"output        {request.out}",
        f"reads         {human_bytes(plan.input_bytes)}",
        *_projector_lines(plan),
        f"disk          {human_bytes(plan.all_bytes)}",
        f"memory        {human_bytes(plan.memory_bytes)} beside the mapped input",
    ]  # fmt: skip
    lines += savings_lines(plan)
    lines += _left_out(plan)
    return "\n".join(lines)


def _projector_lines(plan: ExportPlan) -> list[str]:
    found = plan.projector
    if found is None:
        return []
    senses = "vision and audio" if found.audio else "vision"
    adapted = sum(t.adapted for t in found.tensors)
    changed = f", the adapter in {adapted}" if adapted else ""
    return [
        f"projector     {found.path}",
        f"              {senses}, {found.kind}, {len(found.tensors)} tensors{changed}, "
        f"{human_bytes(found.output_bytes)}",
    ]


def _grid_lines(plan: ExportPlan) -> list[str]:
    if not plan.grid.is_qat:
        return []
    n_on, n_all = plan.grid.layers
    line = f"training      quantization-aware: {n_on} of {n_all} matrices lie on a Q4_0 grid"
    return [line + (f"; {len(plan.exact)} tensors are kept exactly" if plan.exact else "")]


def _left_out(plan: ExportPlan) -> list[str]:
    reasons: dict[str, int] = {}
    for d in plan.dropped:
        kind = "dead K/V projections of KV-shared layers" if "dead" in d.reason else d.reason
        reasons[kind] = reasons.get(kind, 0) + 1
    lines = [f"not in file   {n} tensors: {reason}" for reason, n in reasons.items()]
    lines += [f"unused delta  {unused_text(u)}" for u in plan.unused]
    if plan.calibration is not None:
        lines.append(calibration_line(plan))
    if plan.imatrix is not None:
        lines.append(
            f"imatrix       {len(plan.imatrix.used)} tensors weighted, "
            f"{len(plan.imatrix.missing)} without an entry, "
            f"{len(plan.imatrix.unused)} entries unused"
        )
    return lines + [f"warning       {w}" for w in plan.warnings]


def calibration_line(plan: ExportPlan) -> str:
    """What the statistics are used for."""
    found, budget = plan.calibration, plan.request.budget
    assert found is not None
    line = f"calibrated    {found.rounded} tensors rounded with error feedback"
    if found.predicted_kl is not None:
        line += f"\npredicted     KL {found.predicted_kl:.4g}"
        if found.predicted_share is not None:
            line += (
                f", {found.predicted_share:.2f} of that of the plain {plan.file_type.name} types"
            )
    if budget is not None and budget.read_bytes is not None:
        stored = sum(t.slot.n_bytes for t in plan.tensors) - plan.read_per_token
        line += (
            f"\nbudget        {human_bytes(plan.read_per_token)} read per token, of at most "
            f"{human_bytes(budget.read_bytes)} ({budget.why})"
        )
        if stored:
            line += (
                f"\n              {human_bytes(stored)} of tables are only looked up: they cost "
                f"storage, a byte {FLASH_PRICE:g} of one that is read"
            )
    elif budget is not None and (beside := plan.projector) is not None:
        line += (
            f"\nbudget        is the model file's alone: the projector takes "
            f"{human_bytes(beside.output_bytes)} of storage and,\n              with one picture, "
            f"{human_bytes(beside.memory_bytes)} of memory beside it (--mmproj off leaves it out)"
        )
    return line


def plan_json(plan: ExportPlan) -> dict[str, object]:
    """The plan as a JSON document."""
    return {
        "architecture": plan.architecture,
        "quant": plan.file_type.name,
        "output": str(plan.request.out),
        "input_bytes": plan.input_bytes,
        "output_bytes": plan.output_bytes,
        "memory_bytes": plan.memory_bytes,
        "mixture": plan.mixture(),
        "vocabulary": savings_json(plan),
        "calibration": plan.calibration
        and {
            "rounded": plan.calibration.rounded,
            "predicted_kl": plan.calibration.predicted_kl,
            "predicted_share": plan.calibration.predicted_share,
            "read_per_token": plan.read_per_token,
            "read_budget": plan.request.budget.read_bytes if plan.request.budget else None,
        },
        "tensors": _tensors_json(plan.tensors),
        "mmproj": plan.projector
        and {
            **plan.projector.facts(),
            "output": str(plan.projector.path),
            "output_bytes": plan.projector.output_bytes,
            "phone_memory_bytes": plan.projector.memory_bytes,
            "tensors": _tensors_json(plan.projector.tensors),
        },
        "dropped": [{"source": d.source, "reason": d.reason} for d in plan.dropped],
        "unused_deltas": [unused_text(u) for u in plan.unused],
        "warnings": list(plan.warnings),
    }


def _tensors_json(tensors: Sequence[TensorPlan]) -> list[dict[str, object]]:
    return [
        {
            "name": t.slot.name,
            "shape": list(t.slot.shape),
            "source": t.origin.source,
            "source_dtype": t.source_dtype,
            "adapted": t.adapted,
            "type": t.slot.type.name,
            "bytes": t.slot.n_bytes,
            "reason": t.choice.reason,
        }
        for t in tensors
    ]


def result_text(result: ExportResult, report: VerifyReport) -> str:
    """What the user has now, and the command that runs it."""
    quality = report.manifest.facts.quality
    draft = "MODEL.gguf --draft " if report.architecture == gemma4_assistant.NAME else ""
    lines = [
        f"file      {result.path}",
        f"size      {human_bytes(result.size)} ({result.size} bytes)",
        f"sha256    {result.sha256}",
        f"manifest  {result.manifest}",
        *_projector_result(report),
        f"verified  {verified_text(report)}",
        *([f"quality   {gate_text(quality)}"] if quality else []),
        f"run       pedsup-run {draft}{shlex.quote(str(result.path))}",
    ]
    return "\n".join(lines)


def _projector_result(report: VerifyReport) -> list[str]:
    found = report.projector
    if found is None or not found.checked:
        return []
    size = f"{human_bytes(found.size)}, sha256 {found.sha256}"
    return [f"projector {found.path}", f"          {size}"]


def _projector_text(report: VerifyReport) -> str:
    found = report.projector
    if found is None:
        return ""
    if not found.checked:
        return f"; projector {found.path.name}: {found.note}"
    return f"; and the {found.n_tensors} of its projector {found.path.name}"


def verified_text(report: VerifyReport) -> str:
    """One line: what was checked."""
    text = f"{report.n_tensors} tensors, their SHA-256 and the whole file's"
    text += _projector_text(report)
    if fits := report.manifest.facts.fits:
        text += f"; an adapter for {', '.join(fit.name for fit in fits)}"
        again = "all its tensors made again from the adapter are the same bytes"
        return f"{text}; {again}" if report.remade else text
    if vocabulary := report.manifest.facts.vocabulary:
        text += (
            f"; {vocabulary.get('tokens')} of {vocabulary.get('base_tokens')} tokens, which "
            "tokenize what they can spell as before"
        )
    if report.signer is not None:
        text += f"; signed by the key {report.signer.fingerprint[:16]}"
    shares = [s.share for s in report.shares] if report.shares is not None else []
    if shares:
        mean = sum(shares) / len(shares)
        text += f"; the adapter is in all {len(shares)} tensors (mean share {mean:.2f})"
        if report.remade:
            return f"{text}; sampled rows made again from base and adapter are the same bytes"
        if report.manifest.recipe.get("calibrated"):
            return (
                f"{text}; give the --calibrated statistics that it was rounded with to compare its "
                "bytes, too"
            )
        return f"{text}; give the --imatrix that it was made with to compare its bytes, too"
    if recorded := list(report.recorded_shares.values()):
        return (
            f"{text}; adapter in {sum(s > 0.5 for s in recorded)} of {len(recorded)} tensors when "
            "it was exported (give --base and --adapter to check again)"
        )
    return f"{text}; the file was exported without an adapter"


def verify_json(report: VerifyReport) -> dict[str, object]:
    """The report as a JSON document."""
    return {
        "path": str(report.path),
        "size": report.size,
        "sha256": report.sha256,
        "architecture": report.architecture,
        "tensors": report.n_tensors,
        "core_sha256": report.manifest.core_sha256,
        "vocabulary": report.manifest.facts.vocabulary,
        "signed_by": report.signer.fingerprint if report.signer else None,
        "adapter_checked": report.shares is not None,
        "rows_made_again": report.remade,
        "mmproj": report.projector and report.projector.as_dict(),
        "adapter_shares": (
            {s.name: s.share for s in report.shares}
            if report.shares is not None
            else report.recorded_shares
        ),
    }
