"""The plan of an adapter as a file of its own: which matrices it changes, in which types.

The format is llama.cpp's (`pedsup.gguf_file.lora`). The file has one alpha for all its matrices,
and llama.cpp multiplies by alpha / r. Where a module has a scaling of its own, as with
`alpha_pattern`, its ratio is multiplied into `lora_b`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from pedsup.errors import MismatchError, UnsupportedError, UsageError
from pedsup.gguf_file import ArrayValue, GGMLType, ValueType
from pedsup.gguf_file.architecture import EMBEDDING
from pedsup.gguf_file.cut_vocabulary import is_cut
from pedsup.gguf_file.ggml_types import BY_NAME
from pedsup.gguf_file.lora import ADAPTER, ALPHA, KIND, LEFT_OUT, A, B
from pedsup.gguf_file.type_mixture import llama_cpp_order
from pedsup.trust.manifest import DIGEST_KEY
from pedsup_export.adapter.base_file import BaseFile
from pedsup_export.adapter.effect import is_zero, scale_notes
from pedsup_export.adapter.folder import CONFIG, WEIGHTS, Adapter
from pedsup_export.adapter.match import (
    DEAD_KV_NOTE,
    REASONS,
    MatchReport,
    UnusedDelta,
    base_name_warning,
    match,
)
from pedsup_export.adapter.tensors import LoraDelta
from pedsup_export.gguf.header import KV, TensorSlot, array, f32, lay_out, string
from pedsup_export.plan.adapter_plan import AdapterFilePlan, AdapterFileRequest, Change
from pedsup_export.plan.general import (
    DESCRIPTION,
    DIGEST_PLACEHOLDER,
    INTENDED_USE,
    licence_of,
    made_entries,
)
from pedsup_export.plan.planner import refuse_unused
from pedsup_export.plan.provenance import held
from pedsup_export.tokenizer.files import Tokenizer, overlay

TYPES: Final = {"F16": 1, "F32": 0, "Q8_0": 7}
"""Type -> `general.file_type`."""
_LARGEST: Final = {
    "F16": float(np.finfo(np.float16).max),
    "F32": float(np.finfo(np.float32).max),
    "Q8_0": 127 * float(np.finfo(np.float16).max),
}
"""Type -> the largest number that it holds; Q8_0 has a scale in float16."""
FITS_KEY: Final = "pedsup.adapter.fits"
"""Metadata key: names of the files that it was made for."""


def plan_adapter_file(request: AdapterFileRequest) -> AdapterFilePlan:
    """Open the adapter and its base files, check that they belong together, and decide.

    Raises:
        BadFileError: a file is missing or damaged.
        UnsupportedError: the adapter does more than low-rank changes of matrices.
        MismatchError: it does not belong to a base file, or a part of it would be left out.
        UsageError: no such type, or no base.
    """
    if not request.bases:
        raise UsageError("no base was given", wanted="--base MODEL.gguf")
    if request.kind not in TYPES:
        raise UsageError(f"the type '{request.kind}'", wanted=f"one of {', '.join(TYPES)}")
    folder = request.adapter.folder
    with held({"adapter": [folder / CONFIG, folder / WEIGHTS]}) as sources:
        adapter = Adapter.open(folder)
    bases = tuple(BaseFile.open(path) for path in request.bases)
    _refuse_more_than_lora(adapter)
    reports = [_match(adapter, base) for base in bases]
    _require_same(bases, reports)
    report = reports[0]
    if not request.allow_unused:
        refuse_unused(adapter, report)
    found = {n: c.lora for n, c in report.matched.items() if c.lora is not None}
    used = _effective(found, folder)
    alpha, changes = _changes(bases[0], used)
    slots = _slots(changes, BY_NAME[request.kind])
    _refuse_overflow(changes, slots, folder)
    return AdapterFilePlan(
        request=request,
        adapter=adapter,
        bases=bases,
        changes=changes,
        alpha=alpha,
        slots=slots,
        metadata=tuple(_metadata(request, bases, alpha)),
        unused=report.unused,
        warnings=_warnings(adapter, bases, report, changes, len(found) - len(used)),
        sources=sources,
    )


def _effective(found: Mapping[str, LoraDelta], folder: Path) -> dict[str, LoraDelta]:
    """The changes that change anything.

    Raises:
        MismatchError: none does.
    """
    used = {name: delta for name, delta in found.items() if not is_zero(delta)}
    if not used:
        raise MismatchError(
            "the adapter changes nothing that llama.cpp can apply",
            where=folder,
            wanted="a trained adapter with a scaling above zero",
            remedy="check lora_alpha in adapter_config.json, and that this is the adapter after "
            "training",
        )
    return used


def _refuse_more_than_lora(adapter: Adapter) -> None:
    """What llama.cpp's format has no place for.

    Raises:
        UnsupportedError: whole tensors, replaced tokens, DoRA.
    """
    dora = [m for m, d in adapter.deltas.items() if d.magnitude is not None]
    for found, what in (
        (sorted(adapter.replacements), "whole tensors (modules_to_save, biases, embeddings)"),
        (sorted(adapter.tokens), "token rows (trainable_token_indices)"),
        (dora, "DoRA's magnitudes"),
    ):
        if found:
            raise UnsupportedError(
                f"the adapter has {what}: {', '.join(found[:3])}"
                + (f" and {len(found) - 3} more" if found[3:] else ""),
                where=adapter.folder,
                wanted="low-rank changes only: llama.cpp's adapter files hold nothing else",
                remedy="merge this adapter: pedsup-export run --base BASE --adapter "
                f"{adapter.folder}",
            )


def _match(adapter: Adapter, base: BaseFile) -> MatchReport:
    """Changes by the base file's tensor; what llama.cpp would not apply counts as unused."""
    report = match(adapter, base.shapes, is_dead=base.is_dead)
    tied = "output.weight" not in base.header.tensors
    matched, unused = {}, list(report.unused)
    for name, change in report.matched.items():
        target = base.targets[name]
        if change.lora is not None and (target in LEFT_OUT or (tied and target == EMBEDDING)):
            module, norm = change.lora.module, change.lora.norm()
            unused.append(UnusedDelta(module, "beside", norm, REASONS["beside"]))
        else:
            matched[target] = change
    return replace(report, matched=matched, unused=tuple(unused))


def _require_same(bases: Sequence[BaseFile], reports: Sequence[MatchReport]) -> None:
    for base, report in zip(bases[1:], reports[1:], strict=True):
        if report.matched.keys() != reports[0].matched.keys():
            raise MismatchError(
                "the base files do not have the same matrices",
                where=[bases[0].header.path, base.header.path],
                wanted="files of one model in different types",
                remedy="make an adapter file for each",
            )


def _changes(base: BaseFile, used: Mapping[str, LoraDelta]) -> tuple[float, tuple[Change, ...]]:
    """The file's alpha, the commonest of all, and the changes in llama.cpp's order."""
    alphas = {name: float(np.float32(d.scaling * d.rank)) for name, d in used.items()}
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    if alpha <= 0:
        raise UnsupportedError(f"a scaling below zero (alpha {alpha:g})", wanted="one above zero")
    return alpha, tuple(
        Change(name, used[name], base.head_rows(name), alphas[name] / alpha)
        for name in llama_cpp_order(used)
    )


def _slots(changes: Sequence[Change], kind: GGMLType) -> tuple[TensorSlot, ...]:
    """F16 where rows are not a multiple of the type's block, as llama.cpp's converter does."""
    rows = []
    for change in changes:
        for name, shape in _shapes(change).items():
            fits = shape[1] % kind.block_size == 0
            rows.append((name, shape[::-1], kind if fits else BY_NAME["F16"]))
    return tuple(lay_out(rows))


def _refuse_overflow(changes: Sequence[Change], slots: Sequence[TensorSlot], folder: Path) -> None:
    """Raise `UnsupportedError` where a number of the adapter would be infinite in the file."""
    kinds = {slot.name: slot.type.name for slot in slots}
    for change in changes:
        for name, values in change.halves().items():
            if not (largest := float(np.abs(values).max())) <= _LARGEST[kinds[name]]:
                raise UnsupportedError(
                    f"'{name}' holds {largest:g}, which does not fit {kinds[name]}",
                    where=folder,
                    wanted=f"numbers up to {_LARGEST[kinds[name]]:g}",
                    remedy="give --type F32"
                    if kinds[name] != "F32"
                    else "check lora_alpha and alpha_pattern in adapter_config.json",
                )


def _shapes(change: Change) -> dict[str, tuple[int, int]]:
    """Row-major shapes of both halves."""
    (n_out, n_in), rank = change.delta.shape, change.delta.rank
    a, b = ((n_out, rank), (n_in, rank)) if change.target == EMBEDDING else (
        (rank, n_in), (n_out, rank))  # fmt: skip
    return {f"{change.target}{A}": a, f"{change.target}{B}": b}


def _metadata(request: AdapterFileRequest, bases: Sequence[BaseFile], alpha: float) -> list[KV]:
    adapter, base = request.adapter, bases[0]
    return [
        string("general.architecture", base.header.architecture),
        string("general.type", ADAPTER),
        string(KIND, "lora"),
        f32(ALPHA, alpha),
        # Not the name alone: a signer is remembered by it, and the base may have the same.
        string("general.name", request.name or f"{adapter.name} (adapter)"),
        DESCRIPTION,
        *made_entries(
            TYPES[request.kind],
            request.license or licence_of(adapter.folder),
            base.identity.name,
        ),
        *INTENDED_USE,
        string("pedsup.adapter.name", adapter.name),
        array(FITS_KEY, ValueType.STRING, [b.header.path.name for b in bases]),
        string(DIGEST_KEY, DIGEST_PLACEHOLDER),
    ]


def _warnings(
    adapter: Adapter,
    bases: Sequence[BaseFile],
    report: MatchReport,
    changes: Sequence[Change],
    n_idle: int,
) -> tuple[str, ...]:
    found = [*report.warnings, *scale_notes(adapter)]
    if n_idle:
        found.append(f"the adapter's change of {n_idle} matrices is exactly zero: left out")
    if folded := [c.target for c in changes if c.factor != 1]:
        found.append(
            f"{len(folded)} matrices have a scaling of their own, which is multiplied into lora_b "
            f"({folded[0]})"
        )
    if report.wrong_forward_pass:
        found.append(DEAD_KV_NOTE)
    if other := base_name_warning(adapter, _base_name(bases[0])):
        found.append(other)
    found += [note for base in bases for note in _tokenizer_notes(adapter.folder, base)]
    return tuple(dict.fromkeys(found))


def _base_name(base: BaseFile) -> str | None:
    """What a base file says that it was made from."""
    manifest = base.identity.manifest
    recorded = manifest.facts.base if manifest else None
    named = recorded.name if recorded else None
    name = named or base.header.get("general.base_model.0.name")
    return name if isinstance(name, str) else None


def _tokenizer_notes(folder: Path, base: BaseFile) -> list[str]:
    """How the tokenizer beside the adapter differs from the base file's, which is the one used."""
    mine = overlay(Tokenizer(folder, {}, {}, {}), folder)
    if mine is None:
        return []
    header, notes = base.header, []
    template, theirs = mine.templates.default, header.get("tokenizer.chat_template")
    if template is not None and template != theirs:
        notes.append(
            "the adapter's folder has another chat template than the base file, and an adapter "
            "file holds none: the base file's is used"
        )
    tokens = header.get("tokenizer.ggml.tokens")
    if mine.document and isinstance(tokens, ArrayValue) and not is_cut(header):
        known = [raw.decode("utf-8", "replace").replace("▁", " ") for raw in tokens.raw_strings()]
        other = [
            token
            for token, number in mine.vocab.items()
            if not 0 <= number < len(known) or known[number] != token.replace("▁", " ")
        ]
        if other:
            notes.append(
                f"{len(other)} tokens of the adapter's folder differ from the base file's "
                f"({other[0]!r:.40}): the base file's are used"
            )
    return notes
