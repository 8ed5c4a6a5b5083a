"""The export plan with calibration statistics: what `run --calibrated` adds to `plan.make_plan`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from pedsup.gguf_file.type_mixture import why_not_quantized
from pedsup_export.allocation import command as allocation
from pedsup_export.allocation.choose import Allocation
from pedsup_export.allocation.command import FLASH_PRICE
from pedsup_export.plan import planner as plain
from pedsup_export.plan.export_plan import Calibration, ExportPlan, Inputs, TensorPlan
from pedsup_export.plan.request import ExportRequest
from pedsup_export.plan.rows import blocks, final_rows
from pedsup_export.rounding.calibrated import METHOD, Calibrated, Fingerprint, other_weights
from pedsup_export.rounding.matrix import Effort
from pedsup_export.types.mixture import parse_override

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHECKED_FIRST: Final = 4
"""Matrices whose identity is checked before anything is written; all are while they are rounded."""
_CHUNKS: Final = 8
_LARGE: Final = 1_000_000_000


def make_plan(request: ExportRequest) -> tuple[ExportPlan, Inputs]:
    """`plan.make_plan`, then the statistics checked, and types chosen if there is a budget.

    Raises:
        PedsupError: as `plan.make_plan`; the statistics are damaged or of another model, or the
            budget cannot be kept.
    """
    made, inputs = plain.make_plan(request)
    if request.calibrated is None:
        return made, inputs
    n_weights = sum(t.n_rows * t.slot.shape[0] for t in made.tensors)
    calibrated = Calibrated.open(request.calibrated, effort_for(n_weights))
    calibrated.check(made.architecture, {t.slot.name: t.slot.shape for t in made.tensors})
    inputs = replace(inputs, calibrated=calibrated)
    _check_weights(made, inputs, Calibrated(calibrated.statistics, calibrated.effort))
    calibrated.identified |= _check_cut_tables(made, inputs)
    chosen = _chosen(made, inputs, calibrated)
    if chosen is not None:
        exact = tuple((f"^{re.escape(n)}$", t) for n, t in chosen.types.items())
        made, again = plain.make_plan(
            replace(request, tensor_types=(*request.tensor_types, *exact))
        )
        inputs = replace(again, calibrated=calibrated)
    digest = {calibrated.statistics.path.name: calibrated.statistics.sha256}
    return replace(
        made,
        calibration=_calibration(made, calibrated, chosen),
        sources={**made.sources, "calibrated": digest},
    ), inputs


def effort_for(n_weights: int) -> Effort:
    """Two turns of improvement for small models; the second gains a few per cent of the error and
    costs a third of the time, which large ones do not have.
    """
    return Effort() if n_weights < _LARGE else Effort(passes=1)


def _calibration(
    made: ExportPlan, calibrated: Calibrated, chosen: Allocation | None
) -> Calibration:
    facts = [calibrated.statistics.data_sha256, METHOD, vars(calibrated.effort)]
    return Calibration(
        identity=hashlib.sha256(json.dumps(facts).encode()).hexdigest(),
        file=calibrated.statistics.path,
        rounded=sum(calibrated.rounds(t.slot.name, t.slot.type) for t in made.tensors),
        predicted_kl=chosen.divergence if chosen else None,
        predicted_share=chosen.divergence / chosen.mixture if chosen and chosen.mixture else None,
    )


def _check_weights(made: ExportPlan, inputs: Inputs, calibrated: Calibrated) -> None:
    """Compare some small matrices with the statistics before the first byte: adapted ones first."""
    known = [t for t in made.tensors if t.slot.name in calibrated.statistics.group_of]
    known.sort(key=lambda t: (not t.adapted, t.slot.shape[0] * t.n_rows))
    for tensor in known[:_CHECKED_FIRST]:
        for lo, hi in blocks(tensor):
            rows = final_rows(tensor, inputs, lo, hi, made.request.merge_dtype)
            calibrated.identify(rows, tensor.slot.name, lo, tensor.n_rows)


def _check_cut_tables(made: ExportPlan, inputs: Inputs) -> set[str]:
    """Compare the tables whose rows are cut, with all their rows, as they were calibrated.

    Statistics may be of the full merge or of one with the same cut. What is rounded later are the
    kept rows, which do not give the full merge's fingerprint.

    Returns:
        The names of the tables that are the full merge's.
    """
    assert inputs.calibrated is not None
    statistics, found = inputs.calibrated.statistics, set[str]()
    for tensor in made.tensors:
        name, kept = tensor.slot.name, tensor.origin.kept_rows
        if kept is None or name not in statistics.record.fingerprints:
            continue
        assert tensor.origin.source is not None
        n_rows = inputs.checkpoint.tensors[tensor.origin.source].shape[0]
        whole = replace(tensor, origin=replace(tensor.origin, kept_rows=None))
        own, full = Fingerprint(statistics.record, name), Fingerprint(statistics.record, name)
        for lo in range(0, n_rows, tensor.rows_per_block):
            hi = min(lo + tensor.rows_per_block, n_rows)
            rows = final_rows(whole, inputs, lo, hi, made.request.merge_dtype)
            full.add(rows, lo)
            first, last = np.searchsorted(kept, (lo, hi))
            if first < last:
                own.add(np.ascontiguousarray(rows[kept[first:last] - lo]), int(first))
        if full.fits:
            found.add(name)
        elif not own.fits:
            raise other_weights(name, statistics.path)
    return found


def _chosen(made: ExportPlan, inputs: Inputs, calibrated: Calibrated) -> Allocation | None:
    request = made.request
    if request.budget is None and request.allocation is None:
        return None
    tensors = list(_choosable(made, inputs))
    if request.allocation is not None:
        return allocation.read(request.allocation, [t.name for t in tensors])
    assert request.budget is not None
    names = {t.name for t in tensors}
    if request.budget.read_bytes is not None:
        flash = made.looked_up
        rest = [t.slot for t in made.tensors if t.slot.name not in names | flash]
        fixed = sum(slot.n_bytes for slot in rest)
        tensors = [replace(t, price=FLASH_PRICE) if t.name in flash else t for t in tensors]
    else:
        chosen = [t.slot.n_bytes for t in made.tensors if t.slot.name in names]
        fixed = made.output_bytes - sum(chosen)
    n_bytes = allocation.bytes_of(
        request.budget,
        like=lambda kind: plain.make_plan(replace(request, quant=kind))[0].output_bytes,
        n_weights=sum(t.n_rows * t.slot.shape[0] for t in made.tensors),
        fixed=fixed,
    )
    found = allocation.choose(tensors, calibrated, n_bytes, request.threads)
    if request.save_allocation is not None:
        identity = calibrated.statistics.data_sha256
        allocation.save(request.save_allocation, found, identity, force=request.force)
    return found


def _choosable(made: ExportPlan, inputs: Inputs) -> Iterator[allocation.Choosable]:
    """Tensors that are quantized and whose type the user did not fix."""
    fixed = [parse_override(f"{p}={t}").pattern for p, t in made.request.tensor_types]
    for tensor in made.tensors:
        slot = tensor.slot
        if why_not_quantized(slot.name, slot.shape) or any(p.search(slot.name) for p in fixed):
            continue
        sampler = partial(_sampled, tensor, inputs, made.request)
        yield allocation.Choosable(slot.name, slot.shape, sampler, usual_type=slot.type.name)


def _sampled(
    tensor: TensorPlan, inputs: Inputs, request: ExportRequest, wanted: int
) -> NDArray[np.float32]:
    """Rows spread over a tensor, in runs that keep the heads of a rotary matrix whole."""
    unit = tensor.origin.head_rows or 1
    units = tensor.n_rows // unit
    length = max(1, min(units, -(-wanted // _CHUNKS // unit)))
    starts = np.unique(np.linspace(0, units - length, _CHUNKS).astype(np.int64)) * unit
    parts = [
        final_rows(tensor, inputs, lo, lo + length * unit, request.merge_dtype).copy()
        for lo in starts.tolist()
    ]
    return np.ascontiguousarray(np.concatenate(parts))
