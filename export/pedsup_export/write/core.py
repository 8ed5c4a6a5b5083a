"""The manifest's core: everything that made a file, and the digest of each of its tensors."""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import pedsup
from pedsup.texts.intended_use import FULL
from pedsup.trust.manifest import manifest_document
from pedsup_export.adapter.folder import Adapter
from pedsup_export.gguf.header import TensorSlot, mixture
from pedsup_export.plan.adapter_plan import AdapterFilePlan
from pedsup_export.plan.export_plan import ExportPlan, Inputs, TensorPlan
from pedsup_export.plan.general import chosen_base
from pedsup_export.plan.planner import unused_text
from pedsup_export.source.hub import ModelRef
from pedsup_export.write.stream import Streamed

Core = dict[str, object]


def export_core(plan: ExportPlan, inputs: Inputs, done: Streamed) -> Core:
    """The core of a merged file."""
    request, digests = plan.request, plan.sources
    values = {e.key: e.value for e in plan.metadata}
    template = values.get("tokenizer.chat_template")
    core: Core = {
        "architecture": plan.architecture,
        "license": values["general.license"],
        "base": _model(chosen_base(request), {**digests["base"], **done.shards}),
        "tokenizer": digests["tokenizer"],
        "chat_template_sha256": hashlib.sha256(template.encode()).hexdigest()
        if isinstance(template, str)
        else None,
        "recipe": _recipe(plan, inputs),
        "mixture": plan.mixture(),
        "dropped": [asdict(d) for d in plan.dropped],
        "warnings": list(plan.warnings),
        "tensors": _tensors(plan.tensors, done.tensors),
    }
    if plan.projector is not None:
        core["mmproj"] = {
            **plan.projector.facts(),
            "processor": digests["processor"],
            "tensors": _tensors(plan.projector.tensors, done.tensors),
        }
    if request.adapter and inputs.adapter:
        core["adapter"] = {
            **_model(request.adapter, digests["adapter"]),
            "config": _summary(inputs.adapter),
            "unused_deltas": [unused_text(u) for u in plan.unused],
            "shares": {s.name: round(s.share, 4) for s in done.shares},
        }
    return _completed(core)


def adapter_core(
    plan: AdapterFilePlan, fits: list[dict[str, object]], digests: Mapping[str, str]
) -> Core:
    """The core of an adapter file.

    Args:
        fits: the base files that it was made for.
        digests: hex SHA-256 of its tensors.
    """
    request, values = plan.request, {e.key: e.value for e in plan.metadata}
    return _completed(
        {
            "architecture": values["general.architecture"],
            "kind": "adapter",
            "license": values["general.license"],
            "base": {"name": plan.bases[0].identity.name},
            "fits": fits,
            "adapter": {
                **_model(request.adapter, plan.sources["adapter"]),
                "config": _summary(plan.adapter),
                "unused_deltas": [unused_text(u) for u in plan.unused],
            },
            "recipe": {"quant": request.kind, "alpha": plan.alpha},
            "mixture": mixture(plan.slots),
            "warnings": list(plan.warnings),
            "tensors": {slot.name: _tensor(slot, digests) for slot in plan.slots},
        }
    )


def document_of(core: Core, out: Path, size: int, sha256: str) -> dict[str, object]:
    """The whole manifest of a file that was made just now."""
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()
    return manifest_document(core, {"name": out.name, "size": size, "sha256": sha256}, now)


def _recipe(plan: ExportPlan, inputs: Inputs) -> dict[str, object]:
    request, digests = plan.request, plan.sources
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
    return recipe


def _tensor(slot: TensorSlot, digests: Mapping[str, str]) -> dict[str, object]:
    return {
        "type": slot.type.name,
        "shape": list(slot.shape),
        "bytes": slot.n_bytes,
        "sha256": digests[slot.name],
    }


def _tensors(plans: Iterable[TensorPlan], digests: Mapping[str, str]) -> dict[str, object]:
    return {
        t.slot.name: {
            **_tensor(t.slot, digests),
            "source": t.origin.source,
            "adapted": t.adapted,
        }
        for t in plans
    }


def _model(ref: ModelRef, files: Mapping[str, str]) -> dict[str, object]:
    return {"name": ref.name, "revision": ref.revision, "files": dict(files)}


def _summary(adapter: Adapter) -> dict[str, object]:
    """What the adapter's configuration says."""
    ranks = sorted({d.rank for d in adapter.deltas.values()})
    return {
        "trained_on": adapter.base_model_name,
        "revision": adapter.revision,
        "r": ranks[0] if len(ranks) == 1 else ranks,
        "modules": len(adapter.deltas),
        "replaced_tensors": sorted(adapter.replacements),
    }


def _completed(core: Core) -> Core:
    core["intended_use"] = FULL
    core["versions"] = {"pedsup": pedsup.__version__, "python": platform.python_version()}
    # Through JSON once, so that the digest is that of what a reader parses.
    return dict(json.loads(json.dumps(core)))
