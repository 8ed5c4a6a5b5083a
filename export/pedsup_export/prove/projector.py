"""The projector beside a model: whether it is the one that was exported with it, and proved."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pedsup.errors import MismatchError, PedsupError, UntrustedError, UsageError
from pedsup.files.direct_io import DirectFile
from pedsup.gguf_file import GGUFHeader, read_header
from pedsup.gguf_file.projector import is_projector, validate_projector
from pedsup.trust.identity import header_digest
from pedsup.trust.manifest import (
    MMPROJ_KEY,
    Manifest,
    MmprojFacts,
    mmproj_path,
    projector_origin,
)
from pedsup.trust.projector import projector_beside
from pedsup_export.prove.finished_file import Wanted
from pedsup_export.prove.proof import AdapterShare, Proof, as_written, row_reader
from pedsup_export.prove.reading import check_entries, check_table, read_and_compare

_PREFIX: Final = "mmproj-"


@dataclass(frozen=True)
class ProjectorReport:
    """What is known of the projector.

    Attributes:
        path: where it is, or would be.
        checked: whether it is there, and all of its bytes are those that the manifest names.
        note: why not, in a few words.
        shares: the adapter's shares, where base and adapter were given.
    """

    path: Path
    checked: bool
    note: str = ""
    sha256: str | None = None
    size: int = 0
    n_tensors: int = 0
    shares: tuple[AdapterShare, ...] | None = None

    def as_dict(self) -> dict[str, object]:
        """The JSON values."""
        return {
            "path": str(self.path),
            "checked": self.checked,
            "note": self.note or None,
            "sha256": self.sha256,
            "size": self.size,
            "tensors": self.n_tensors,
        }


def projector_type(manifest: Manifest) -> str | None:
    """Type of the projector that a model was exported with; None without one."""
    entry = manifest.core.get("mmproj")
    kind = entry.get("quant") if isinstance(entry, dict) else None
    return str(kind) if kind is not None else None


def refuse_projector(path: Path) -> None:
    """A projector has no manifest of its own: it is proved with its model.

    Raises:
        UsageError: the file is a projector.
    """
    try:
        found = is_projector(read_header(path))
    except PedsupError:
        return  # whoever opens it next says what is wrong
    if found:
        model = path.with_name(path.name.removeprefix(_PREFIX))
        raise UsageError(
            "this is a projector: its digests are in the manifest of its model",
            where=path,
            remedy=f"pedsup-export verify {model}: it checks both files",
        )


def check_projector(
    model: Path, manifest: Manifest, proof: Proof | None = None
) -> ProjectorReport | None:
    """Check the projector that a model's manifest names, all of its bytes.

    Args:
        model: the model file; its projector lies beside it.
        manifest: of the model.
        proof: what it takes to make sampled rows again, of the model.

    Returns:
        None where there is none, and none is named.

    Raises:
        UntrustedError: the file beside the model is not the one that was exported with it.
        MismatchError: it is not what base and adapter give.
    """
    path = projector_beside(model, manifest) or mmproj_path(model)
    facts = manifest.facts.mmproj
    if facts is None:
        return _unnamed(path) if path.exists() else None
    if not path.exists():
        return ProjectorReport(path, checked=False, note="it is not here, so it was not checked")
    header = validate_projector(path).header
    _check_pair(header, facts, manifest)
    check_table(header, facts.size, facts.tensors)
    own = _proof(header, proof) if proof is not None else None
    sha256, shares = read_and_compare(header, Wanted(facts.tensors, facts.sha256), own)
    return ProjectorReport(
        path, True, sha256=sha256, size=header.file_size, n_tensors=len(header.tensors),
        shares=shares,
    )  # fmt: skip


def _unnamed(path: Path) -> ProjectorReport:
    note = "it does not belong to this model, whose manifest names no projector"
    return ProjectorReport(path, checked=False, note=note)


def _check_pair(header: GGUFHeader, facts: MmprojFacts, manifest: Manifest) -> None:
    """The manifest names the projector, which has the origin that the model says.

    Raises:
        UntrustedError: one of them names another file.
    """
    origin = projector_origin(manifest.core)
    named = header.get(MMPROJ_KEY)
    if named != origin or header_digest(header) != facts.header:
        other = "names no model" if named is None else "was made with another model"
        raise UntrustedError(
            f"model and projector do not belong together: this projector {other}"
            if named != origin
            else "model and projector do not belong together: the manifest of the model names "
            "another projector",
            where=header.path,
            wanted=f"the projector with the SHA-256 {facts.sha256}",
            remedy="copy model, manifest and projector again from where they were exported",
        )


def _proof(header: GGUFHeader, proof: Proof) -> Proof:
    """The proof of the projector's rows, from what the model's was made of.

    Raises:
        MismatchError: base and adapter give another projector.
    """
    planned = proof.plan.projector
    if planned is None or [t.slot.name for t in planned.tensors] != list(header.tensors):
        raise MismatchError(
            "the base gives no such projector",
            where=header.path,
            wanted="the base that it was exported from, with its processor_config.json",
        )
    check_entries(header, planned.metadata, ("clip.",))
    tensors = as_written(planned.tensors, header)
    inputs = replace(proof.inputs, imatrix=None, calibrated=None)
    read = row_reader(DirectFile(header.path), header.data_offset)
    return Proof(replace(proof.plan, tensors=tensors), inputs, read)
