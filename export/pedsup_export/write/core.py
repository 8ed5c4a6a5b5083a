"""The manifest's core: everything that made an export, and every tensor's digest."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict

import pedsup
from pedsup.texts.intended_use import FULL
from pedsup_export.adapter.folder import Adapter
from pedsup_export.plan.export_plan import ExportPlan, Inputs, ProjectorPlan, TensorPlan
from pedsup_export.plan.general import chosen_base
from pedsup_export.plan.planner import unused_text
from pedsup_export.source.hub import ModelRef
from pedsup_export.write.stream import Streamed


def _model(ref: ModelRef, files: Mapping[str, str]) -> dict[str, object]:
    return {"name": ref.name, "revision": ref.revision, "files": dict(files)}


def build_core(plan: ExportPlan, inputs: Inputs, done: Streamed) -> dict[str, object]:
    """The manifest's core: everything that made this file, and every tensor's digest."""
    request, digests = plan.request, plan.sources
    values = {e.key: e.value for e in plan.metadata}
    template = values.get("tokenizer.chat_template")
    recipe: dict[str, object] = {
        "quant": plan.file_type.name,
        "merge_dtype": request.merge_dtype,
        "merge_base": request.merge_base,
        "tensor_types": [f"{p}={t}" for p, t in request.tensor_types],
        "imatrix": {
            "name": request.imatrix.name if request.imatrix else None,
            "files": digests.get("imatrix"),
        },
    }
    if plan.calibration and inputs.calibrated:
        recipe["calibrated"] = {
            **inputs.calibrated.record(digests["calibrated"][plan.calibration.file.name]),
            "predicted_kl": plan.calibration.predicted_kl,
        }
    if plan.exact:
        recipe["exact"] = plan.exact
    core: dict[str, object] = {
        "architecture": plan.architecture,
        "intended_use": FULL,
        "license": values["general.license"],
        "base": _model(chosen_base(request), {**digests["base"], **done.shards}),
        "tokenizer": digests["tokenizer"],
        "chat_template_sha256": _text_digest(template),
        "recipe": recipe,
        "versions": {"pedsup": pedsup.__version__, "python": platform.python_version()},
        "mixture": plan.mixture(),
        "dropped": [asdict(d) for d in plan.dropped],
        "warnings": list(plan.warnings),
        "tensors": {t.slot.name: _tensor(t, done.tensors[t.slot.name]) for t in plan.tensors},
    }
    if plan.projector is not None:
        core["mmproj"] = _projector(plan.projector, digests["processor"], done.tensors)
    if request.adapter and inputs.adapter:
        core["adapter"] = {
            **_model(request.adapter, digests["adapter"]),
            "config": adapter_summary(inputs.adapter),
            "unused_deltas": [unused_text(u) for u in plan.unused],
            "shares": {s.name: round(s.share, 4) for s in done.shares},
        }
    # Through JSON once, so that the digest is that of what a reader parses.
    return dict(json.loads(json.dumps(core)))


def _tensor(tensor: TensorPlan, sha256: str) -> dict[str, object]:
    """What the manifest says of a tensor."""
    return {
        "type": tensor.slot.type.name,
        "shape": list(tensor.slot.shape),
        "bytes": tensor.slot.n_bytes,
        "source": tensor.origin.source,
        "adapted": tensor.adapted,
        "sha256": sha256,
    }


def adapter_summary(adapter: Adapter) -> dict[str, object]:
    """What the adapter's configuration says, for the manifest."""
    ranks = sorted({d.rank for d in adapter.deltas.values()})
    return {
        "trained_on": adapter.base_model_name,
        "revision": adapter.revision,
        "r": ranks[0] if len(ranks) == 1 else ranks,
        "modules": len(adapter.deltas),
        "replaced_tensors": sorted(adapter.replacements),
    }


def _text_digest(text: object) -> str | None:
    return hashlib.sha256(text.encode()).hexdigest() if isinstance(text, str) else None


def _projector(
    plan: ProjectorPlan, processor: Mapping[str, str], digests: Mapping[str, str]
) -> dict[str, object]:
    """What is known of the projector before its file is complete."""
    return {
        **plan.facts(),
        "processor": dict(processor),
        "tensors": {t.slot.name: _tensor(t, digests[t.slot.name]) for t in plan.tensors},
    }
