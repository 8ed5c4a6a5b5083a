"""The projector file of a plan: the towers of the base, with the adapter's change of them."""

from __future__ import annotations

from dataclasses import replace
from math import lcm, prod
from typing import Final

from pedsup.errors import UsageError
from pedsup.gguf_file import ValueType
from pedsup.gguf_file.type_mixture import TypeChoice
from pedsup.trust.manifest import DIGEST_KEY, MMPROJ_KEY, mmproj_path
from pedsup_export.adapter.lora import rows_at_once
from pedsup_export.adapter.match import MatchReport, TensorChange
from pedsup_export.arch import OutputTensor
from pedsup_export.gguf.header import KV, TensorSlot, lay_out, string
from pedsup_export.model import Model
from pedsup_export.plan.export_plan import ProjectorPlan, TensorPlan
from pedsup_export.plan.general import DIGEST_PLACEHOLDER, general_entries
from pedsup_export.plan.planned_header import check_planned_projector
from pedsup_export.plan.request import ExportRequest
from pedsup_export.projector import TYPES, Towers

_OWN: Final = {"general.type": "mmproj", "general.quantized_by": "pedsup"}
BLOCK_FLOATS = 1 << 20
"""Weights worked on at once by one thread: 4 MiB in float32."""


def plan_projector(
    request: ExportRequest, model: Model, matches: MatchReport | None
) -> ProjectorPlan | None:
    """What the projector will hold; None where none is wanted, or the base has no towers for one.

    Args:
        matches: the adapter's changes, without those that change nothing.

    Raises:
        UsageError: an unknown type.
        BadFileError, UnsupportedError: llama.cpp could not use it.
    """
    if request.mmproj is None or model.towers is None:
        return None
    if request.mmproj not in TYPES:
        raise UsageError(f"a projector of the type {request.mmproj}", wanted=", ".join(TYPES))
    towers = model.towers
    tensors = _tensor_plans(towers, request.mmproj, model, matches)
    n_params = sum(prod(t.slot.shape) for t in tensors)
    plan = ProjectorPlan(
        path=mmproj_path(request.out),
        kind=request.mmproj,
        metadata=(
            string("general.architecture", "clip"),
            *_general(request, n_params, changed=any(t.adapted for t in tensors)),
            *towers.entries,
            string(MMPROJ_KEY, DIGEST_PLACEHOLDER),
        ),
        tensors=tensors,
        vision=towers.vision,
        audio=towers.audio,
    )
    memory = check_planned_projector(plan.header, plan.output_bytes)
    return replace(plan, memory_bytes=memory)


def _general(request: ExportRequest, n_params: int, *, changed: bool) -> list[KV]:
    """As the model's, without what only a text model has.

    Towers that the adapter does not change are the base's and named so, by every version of
    pedsup: then the next export has the same projector, which need not be sent again.
    """
    named = request if changed else replace(request, adapter=None, name=None)
    found = general_entries(named, n_params, TYPES[str(request.mmproj)])
    return [
        string(e.key, _OWN.get(e.key, e.value)) if e.type is ValueType.STRING else e
        for e in found
        if e.key not in (DIGEST_KEY, "pedsup.version") and not e.key.startswith("general.sampling.")
    ]


def _tensor_plans(
    towers: Towers, kind: str, model: Model, matches: MatchReport | None
) -> tuple[TensorPlan, ...]:
    kinds = {t.name: towers.type_of(t, kind) for t in towers.tensors}
    slots = lay_out((t.name, t.ggml_shape, kinds[t.name]) for t in towers.tensors)
    adapted = matches.matched if matches else {}
    plans = []
    for slot, origin in zip(slots, towers.tensors, strict=True):
        source = str(origin.source)
        choice = TypeChoice(slot.type, "as llama.cpp's converter")
        dtype = model.checkpoint.tensors[source].dtype_name
        plan = TensorPlan(
            slot, origin, choice, dtype, source in adapted,
            rows_per_block(slot, origin, adapted.get(source)), in_projector=True,
        )  # fmt: skip
        # What is rearranged as a whole is made as a whole.
        plans.append(replace(plan, rows_per_block=plan.n_rows) if origin.arrange else plan)
    return tuple(plans)


def rows_per_block(slot: TensorSlot, origin: OutputTensor, change: TensorChange | None) -> int:
    """Whole heads, and whole products of the adapter's halves."""
    unit = origin.head_rows or 1
    if change is not None and change.lora is not None:
        unit = lcm(unit, rows_at_once(slot.shape[0]))
    return max(1, BLOCK_FLOATS // slot.shape[0] // unit) * unit
