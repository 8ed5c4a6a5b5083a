"""What it takes to make sampled rows of a finished file again, from its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, cast, get_args

from pedsup.errors import MismatchError
from pedsup.files.direct_io import DirectFile
from pedsup.gguf_file import GGUFHeader
from pedsup.texts.safe import label
from pedsup.trust.manifest import Manifest, PartFacts
from pedsup_export.calibration import store
from pedsup_export.plan.export_plan import ExportPlan, Inputs
from pedsup_export.plan.planner import make_plan
from pedsup_export.plan.request import ExportRequest
from pedsup_export.prove.finished_file import differs
from pedsup_export.prove.proof import Proof, as_written, row_reader
from pedsup_export.prove.reading import PREFIXES, check_entries
from pedsup_export.rounding.calibrated import METHOD, Calibrated
from pedsup_export.rounding.matrix import Effort
from pedsup_export.source.floats import RoundTo
from pedsup_export.vocabulary_cut.proof import prove_cut


@dataclass(frozen=True)
class MadeWith:
    """What decided a file's bytes besides base and adapter; without it sampled rows cannot be made
    again, and only the adapter's share is measured.
    """

    imatrix: Path | None = None
    """The importance matrix."""
    calibrated: Path | None = None
    """The statistics that it was rounded with."""


PLAIN: Final = MadeWith()


def proof_of(header: GGUFHeader, manifest: Manifest, request: ExportRequest) -> Proof:
    """What is needed to make sampled rows again, from the inputs that the manifest names."""
    plan, inputs = make_plan(request)
    _check_inputs(header, manifest, plan, inputs)
    if [t.slot.name for t in plan.tensors] != list(header.tensors):
        raise differs("the list of tensors", len(header.tensors), len(plan.tensors), header.path)
    check_entries(header, plan.metadata, (*PREFIXES, f"{plan.architecture}."))
    if plan.cut is not None:
        prove_cut(plan.cut, header, plan.cut.document, plan.cut.texts.values())
    exact_tensors = manifest.recipe.get("exact")
    on_grid = set(exact_tensors if isinstance(exact_tensors, list) else ())
    tensors = tuple(
        replace(t, on_grid=t.slot.name in on_grid) for t in as_written(plan.tensors, header)
    )
    # Rows weighted or rounded by statistics cannot be made again without them.
    weighted = _files(manifest.recipe.get("imatrix")) is not None
    needed = (weighted, bool(manifest.recipe.get("calibrated")))
    exact = needed == (request.imatrix is not None, request.calibrated is not None)
    if request.calibrated is not None:
        inputs = replace(inputs, calibrated=_statistics(manifest.recipe, request.calibrated))
    read = row_reader(DirectFile(header.path), header.data_offset)
    return Proof(replace(plan, tensors=tensors), inputs, read, exact)


def _check_inputs(header: GGUFHeader, manifest: Manifest, plan: ExportPlan, inputs: Inputs) -> None:
    """Raise `MismatchError` unless the inputs are those that the manifest names."""
    _check_sources(_files(manifest.facts.base), "base", inputs.checkpoint.digest())
    if plan.request.adapter is not None:
        _check_sources(_files(manifest.facts.adapter), "adapter", plan.sources["adapter"])
    elif manifest.facts.adapter is not None:
        raise MismatchError(
            "the file was exported with an adapter, and none was given",
            where=header.path,
            wanted="base and adapter",
            remedy="give --adapter too",
        )
    if plan.request.imatrix is not None:
        weighted = _files(manifest.recipe.get("imatrix"))
        if weighted is None:
            raise MismatchError(
                "the file was exported without an importance matrix, and one was given",
                where=header.path,
                remedy="leave --imatrix out",
            )
        _check_sources(weighted, "importance matrix", plan.sources["imatrix"])


def _statistics(recipe: Mapping[str, object], path: Path) -> Calibrated:
    """The statistics that a file was rounded with, and the effort that was taken."""
    recorded = recipe.get("calibrated")
    if not isinstance(recorded, dict):
        raise MismatchError(
            "the file was exported without calibration statistics, and some were given",
            where=path,
            remedy="leave --calibrated out",
        )
    found = store.read(path)
    if recorded.get("data_sha256") != found.data_sha256:
        raise MismatchError(
            "these statistics are not those that the file was rounded with",
            where=path,
            wanted=f"data with the SHA-256 {recorded.get('data_sha256')}",
            remedy="give the statistics that the manifest names",
        )
    if recorded.get("method") != METHOD:
        raise MismatchError(
            f"the file was rounded by the method {recorded.get('method')!r}",
            where=path,
            wanted=f"{METHOD}: this version makes no other",
            remedy="verify it with the version of pedsup that the manifest names",
        )
    try:
        return Calibrated(found, Effort(**recorded["effort"]))
    except (TypeError, KeyError) as error:
        raise MismatchError("the recipe's effort cannot be read", where=path) from error


def whose_tokenizer(manifest: Manifest) -> Literal["adapter", "base"]:
    """Where the exported tokenizer came from, by the names of its files."""
    files = manifest.facts.tokenizer or {}
    return "adapter" if any(name.startswith("adapter/") for name in files) else "base"


def merge_dtype_of(manifest: Manifest) -> RoundTo:
    found = manifest.recipe.get("merge_dtype")
    for known in get_args(RoundTo):
        if found == known:
            return cast(RoundTo, known)
    raise differs("the recipe's merge_dtype", repr(found)[:60], get_args(RoundTo), manifest.path)


def _files(recorded: object) -> object:
    """Names and digests of a part of the manifest."""
    if isinstance(recorded, PartFacts):
        return recorded.files
    return recorded.get("files") if isinstance(recorded, Mapping) else None


def _check_sources(wanted: object, what: str, found: Mapping[str, str]) -> None:
    if dict(found) != wanted:
        recorded = wanted if isinstance(wanted, Mapping) else {}
        names = [n for n in sorted({*recorded, *found}) if recorded.get(n) != found.get(n)]
        raise MismatchError(
            f"this {what} is not the one that was exported",
            where=", ".join(f"{label(n)}, SHA-256 {found.get(n, 'none')}" for n in names),
            wanted=", ".join(f"{label(n)}, SHA-256 {recorded.get(n, 'none')}" for n in names),
            remedy=f"give the {what} that the manifest names",
        )
