"""The export plan: every tensor, where it comes from, what it becomes; printable, then executed.

`make_plan` opens the inputs, checks that they belong together and decides everything that can
be decided before the first byte is written. Nothing below it makes choices.
"""

from __future__ import annotations

from collections.abc import Sequence

from pedsup.errors import MismatchError
from pedsup.gguf_file.file_types import FileType
from pedsup.gguf_file.type_mixture import (
    StoredTensor,
    TypeChoice,
    llama_cpp_order,
    why_not_quantized,
)
from pedsup_export.adapter.effect import Effect, check_effect
from pedsup_export.adapter.folder import Adapter
from pedsup_export.adapter.match import (
    DEAD_KV_NOTE,
    MatchReport,
    UnusedDelta,
    base_name_warning,
)
from pedsup_export.arch import ModelTensors, OutputTensor
from pedsup_export.gguf.header import KV, header_bytes, lay_out, string, u32
from pedsup_export.model import Model, open_model
from pedsup_export.plan.export_plan import ExportPlan, Inputs, TensorPlan
from pedsup_export.plan.general import chosen_base, general_entries, sampling_entries
from pedsup_export.plan.planned_header import check_planned
from pedsup_export.plan.projector import plan_projector, rows_per_block
from pedsup_export.plan.provenance import Digests, held, small_inputs
from pedsup_export.plan.qat import Grid, find_grid, grid_notes
from pedsup_export.plan.request import ExportRequest
from pedsup_export.plan.stored import mixture_shape, stored_tensor
from pedsup_export.source.checkpoint import Checkpoint
from pedsup_export.types.imatrix import Imatrix, ImatrixReport, read_imatrix
from pedsup_export.types.mixture import choose_types, file_type, parse_override
from pedsup_export.vocabulary_cut.plan import cut_model

CUT_BYTES = 400 << 20
"""More memory while a vocabulary is chosen and proved: two tokenizers of Gemma 4's size."""


def make_plan(request: ExportRequest) -> tuple[ExportPlan, Inputs]:
    """Open and check base, adapter and importance matrix, and plan the export.

    Raises:
        PedsupError: an input is damaged, unsupported, or does not belong to the others.
    """
    with held(small_inputs(request)) as sources:
        return _make_plan(request, sources)


def _make_plan(request: ExportRequest, sources: Digests) -> tuple[ExportPlan, Inputs]:
    kind = file_type(request.quant)
    model, cut = cut_model(request.vocabulary, _open(request))
    reference, adapter = model.checkpoint, model.adapter
    effect = _effect(request, model)
    matches = effect.matches if effect else None
    imatrix = read_imatrix(request.imatrix) if request.imatrix else None
    grid = find_grid(model.tensors.outputs, reference.tensors) if kind.is_quantized else Grid()
    choices = _choose(request, kind, model, grid, imatrix is not None)
    tensors = _tensor_plans(model.tensors, choices, reference, matches, grid)
    metadata = _metadata(request, kind, model, tensors, imatrix)
    header = header_bytes(metadata, [t.slot for t in tensors])
    projector = plan_projector(request, model, matches)
    every = (*tensors, *(projector.tensors if projector else ()))
    plan = ExportPlan(
        request=request,
        architecture=model.architecture.name,
        file_type=kind,
        metadata=metadata,
        tensors=tensors,
        dropped=model.tensors.dropped,
        unused=matches.unused if matches else (),
        imatrix=_imatrix_report(imatrix, tensors, kind),
        warnings=(*_warnings(request, model, effect), *_grid_notes(grid, kind, tensors)),
        input_bytes=reference.n_bytes,
        output_bytes=len(header) + tensors[-1].slot.offset + tensors[-1].slot.n_bytes,
        memory_bytes=_memory(every, request.threads, adapter) + (CUT_BYTES if cut else 0),
        sources={**sources, "tokenizer": model.tokenizer.digests},
        cut=cut,
        grid=grid,
        projector=projector,
    )
    check_planned(header, plan.output_bytes)
    return plan, Inputs(reference, adapter, matches, imatrix)


def _open(request: ExportRequest) -> Model:
    return open_model(
        chosen_base(request).folder,
        request.base.folder,
        request.adapter.folder if request.adapter else None,
        adapter_tokenizer=request.tokenizer == "adapter",
        projector=request.mmproj is not None,
    )


def _metadata(
    request: ExportRequest,
    kind: FileType,
    model: Model,
    tensors: Sequence[TensorPlan],
    imatrix: Imatrix | None,
) -> tuple[KV, ...]:
    n_params = sum(t.n_rows * t.slot.shape[0] for t in tensors)
    return (
        string("general.architecture", model.architecture.name),
        *general_entries(request, n_params, kind.number),
        *model.hyper,
        *model.vocabulary.entries,
        *(
            u32(key, value) if isinstance(value, int) else string(key, value)
            for key, value in (imatrix.metadata() if imatrix else {}).items()
        ),
    )


def _memory(tensors: Sequence[TensorPlan], threads: int, adapter: Adapter | None) -> int:
    """Expected peak in bytes beside the mapped input: interpreter, vocabulary, blocks in flight.

    Each thread holds one float32 block, its bytes as they were read, its delta and its packed
    form; as many packed blocks wait for the writer. The adapter is held in float32.
    """
    floats = max(t.rows_per_block * t.slot.shape[0] for t in tensors) * 4
    deltas = adapter.deltas.values() if adapter else ()
    held = sum(delta.a.nbytes + delta.b.nbytes for delta in deltas)
    return (250 << 20) + floats * 4 * (threads + 2) + held


def _effect(request: ExportRequest, model: Model) -> Effect | None:
    """The adapter's changes; unused parts, and a change of nothing, are refused unless allowed."""
    adapter, report = model.adapter, model.matches
    if adapter is None or report is None:
        return None
    if not request.allow_unused:
        refuse_unused(adapter, report)
    return check_effect(
        adapter,
        report,
        model.checkpoint.tensors,
        allow_no_effect=request.allow_no_effect,
    )


def refuse_unused(adapter: Adapter, report: MatchReport) -> None:
    """Raise `MismatchError` where a part of the adapter would not be in the file."""
    if not report.unused:
        return
    listed = [unused_text(u) for u in report.unused[:40]]
    more = [f"and {len(report.unused) - 40} more"] if len(report.unused) > 40 else []
    raise MismatchError(
        f"{len(report.unused)} deltas of the adapter have no tensor in the GGUF",
        where=[adapter.folder, *listed, *more],
        wanted="an adapter whose every delta is used",
        remedy=[
            *([DEAD_KV_NOTE] if report.wrong_forward_pass else []),
            "train on the language model's own projections only, or give --allow-unused to "
            "export without these",
        ],
    )


def unused_text(unused: UnusedDelta) -> str:
    """One line about a delta that nothing takes."""
    return f"{unused.module} (norm {unused.norm:.4g}): {unused.reason}"


def _warnings(request: ExportRequest, model: Model, effect: Effect | None) -> tuple[str, ...]:
    warnings = [*model.notes, *sampling_entries(request.base.folder)[1]]
    if model.adapter is None or effect is None:
        return tuple(warnings)
    warnings += [*effect.matches.warnings, *effect.notes]
    if effect.matches.wrong_forward_pass:
        warnings.append(DEAD_KV_NOTE)
    if other := base_name_warning(model.adapter, chosen_base(request).name):
        warnings.append(other)
    return tuple(warnings)


def _grid_notes(grid: Grid, kind: FileType, tensors: Sequence[TensorPlan]) -> tuple[str, ...]:
    placed = [t for t in tensors if t.origin.source is not None]
    return grid_notes(
        grid,
        kind,
        {t.slot.name: t.slot.type.name for t in placed},
        {t.slot.name: str(t.origin.source) for t in placed},
        frozenset(str(t.origin.source) for t in placed if t.adapted),
    )


def _choose(
    request: ExportRequest, kind: FileType, model: Model, grid: Grid, has_imatrix: bool
) -> dict[str, TypeChoice]:
    """llama.cpp's mixture over all tensors that its converter would have written."""
    reference, tensors = model.checkpoint, model.tensors
    # Google's Q4_0 files of such bases were made through a float16 intermediate.
    through = "float16" if grid.is_qat and kind.name == "Q4_0" else request.merge_dtype

    def stored(tensor: OutputTensor) -> StoredTensor:
        dtype = reference.tensors[tensor.source].dtype_name if tensor.source else "F32"
        return stored_tensor(tensor, kind, dtype, through)

    return choose_types(
        {t.name: stored(t) for t in (*tensors.outputs, *tensors.counted)},
        file_type=kind,
        model=mixture_shape(model.hyper),
        has_imatrix=has_imatrix,
        overrides=[parse_override(f"{p}={t}") for p, t in request.tensor_types],
    )


def _tensor_plans(
    model: ModelTensors,
    choices: dict[str, TypeChoice],
    reference: Checkpoint,
    matches: MatchReport | None,
    grid: Grid,
) -> tuple[TensorPlan, ...]:
    by_name = {o.name: o for o in model.outputs}
    order = llama_cpp_order(by_name)
    slots = lay_out((n, by_name[n].ggml_shape, choices[n].type) for n in order)
    adapted = matches.matched if matches else {}
    plans = []
    for slot in slots:
        origin = by_name[slot.name]
        source = origin.source
        rows = rows_per_block(slot, origin, adapted.get(source) if source else None)
        dtype = reference.tensors[source].dtype_name if source else "computed"
        kept = grid.kept(source, adapted=source in adapted)
        plans.append(
            TensorPlan(slot, origin, choices[slot.name], dtype, source in adapted, rows, kept)
        )
    return tuple(plans)


def _imatrix_report(
    imatrix: Imatrix | None, tensors: Sequence[TensorPlan], kind: FileType
) -> ImatrixReport | None:
    if imatrix is None:
        return None
    quantized = {
        t.slot.name: t.slot.shape
        for t in tensors
        if kind.is_quantized and not why_not_quantized(t.slot.name, t.slot.shape)
    }
    return imatrix.report(quantized)
