"""The manifest beside a model: what it was made of, and digests of every part of it.

    model.gguf                     holds `pedsup.manifest.sha256` in its metadata
    model.gguf.manifest.json       {"schema", "core_sha256", "core": {...}, "file": {...}, ...}

`core_sha256` is the SHA-256 of `core` in canonical JSON, and it is the digest that stands in
the GGUF. `core` names base, adapter, recipe and each tensor's SHA-256; `file` (the digest of the
whole GGUF, which contains the former) stands beside it.

A projector, `mmproj-model.gguf`, has no manifest of its own. `core.mmproj` names it by the digest
of all its bytes, and its metadata say what its towers were made of (`MMPROJ_KEY`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from pedsup.errors import BadFileError
from pedsup.files.checks import Count, Sha256
from pedsup.files.records import json_record, record
from pedsup.files.source import Source
from pedsup.messages import message

SCHEMA: Final = "pedsup-manifest/1"
DIGEST_KEY: Final = "pedsup.manifest.sha256"
"""The GGUF metadata key that holds the manifest's `core_sha256`."""
MMPROJ_KEY: Final = "pedsup.mmproj.origin"
"""A projector's metadata key that holds `projector_origin` of the model it was made with."""
MAX_BYTES: Final = 8 << 20
"""E4B's has 0.4 MB, its projector included."""
_AGAIN: Final = message("copy the manifest again from where the model came from")


def manifest_path(model: Path) -> Path:
    return model.with_name(model.name + ".manifest.json")


def mmproj_path(model: Path) -> Path:
    return model.with_name(f"mmproj-{model.stem}.gguf")


def core_digest(core: Mapping[str, object]) -> str:
    """SHA-256 of `core` as canonical JSON: sorted keys, no spaces, UTF-8."""
    text = json.dumps(core, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def projector_origin(core: Mapping[str, object]) -> str:
    """What a projector knows its model by: SHA-256 of what the model's towers come from.

    That is the base's files and, only where it changes a tower, the adapter's. So every model with
    these towers has the same projector, whatever was trained or quantized otherwise.
    """
    towers = _entry(_entry(core, "mmproj"), "tensors")
    changed = isinstance(towers, Mapping) and any(_entry(t, "adapted") for t in towers.values())
    adapter = _entry(_entry(core, "adapter"), "files") if changed else None
    return core_digest({"base": _entry(_entry(core, "base"), "files"), "adapter": adapter})


def _entry(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, Mapping) else None


@dataclass(frozen=True)
class FileFacts:
    """The whole GGUF."""

    sha256: Sha256
    size: Count
    """Bytes."""


@dataclass(frozen=True)
class TensorFacts:
    """One tensor. All but the digest is only shown, or compared as it is."""

    sha256: Sha256
    type: str = ""
    shape: object = None
    bytes: Count = 0


@dataclass(frozen=True)
class MmprojFacts:
    """The projector beside a model: the file with its vision and audio towers."""

    name: str
    size: Count
    """Bytes."""
    sha256: Sha256
    header: Sha256
    """`pedsup.trust.identity.header_digest`: known before its weights are read."""
    tensors: Mapping[str, TensorFacts] = field(default_factory=dict)


@dataclass(frozen=True)
class PartFacts:
    """Base or adapter."""

    name: object = "unnamed"
    files: object = None
    """Name -> SHA-256."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Of the adapter in each tensor, as measured at export."""


@dataclass(frozen=True)
class CheckFacts:
    """A figure that the quality gate held against its limit."""

    figure: str
    limit: float
    value: float


@dataclass(frozen=True)
class QualityFacts:
    """The quality gate that the file passed."""

    reference: str
    checks: tuple[CheckFacts, ...] = ()
    task: Mapping[str, object] | None = None


@dataclass(frozen=True)
class FitFacts:
    """A model file that an adapter was made for."""

    name: str
    header: Sha256
    """`pedsup.trust.identity.header_digest` of the model alone."""
    sha256: Sha256


@dataclass(frozen=True)
class CoreFacts:
    """What the core says. Another version may say more."""

    tensors: Mapping[str, TensorFacts]
    base: PartFacts | None = None
    adapter: PartFacts | None = None
    recipe: Mapping[str, object] | None = None
    quality: QualityFacts | None = None
    tokenizer: Mapping[str, object] | None = None
    vocabulary: Mapping[str, object] | None = None
    chat_template_sha256: object = None
    mmproj: MmprojFacts | None = None
    fits: tuple[FitFacts, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """A manifest whose own digest was checked."""

    path: Path
    core: Mapping[str, object]
    """As it was parsed: what its digest is of."""
    facts: CoreFacts
    core_sha256: str
    file: FileFacts
    created: str

    @property
    def tensors(self) -> Mapping[str, TensorFacts]:
        return self.facts.tensors

    @property
    def recipe(self) -> Mapping[str, object]:
        return self.facts.recipe or {}


def manifest_document(
    core: Mapping[str, object], file: Mapping[str, object], created: str
) -> dict[str, object]:
    """The JSON document that `read_manifest` reads."""
    return {
        "schema": SCHEMA,
        "created": created,
        "file": file,
        "core_sha256": core_digest(core),
        "core": core,
    }


@dataclass(frozen=True)
class _Document:
    schema: Literal["pedsup-manifest/1"]
    core: Mapping[str, object]
    core_sha256: Sha256
    file: FileFacts
    created: str


def read_manifest(path: Path) -> Manifest:
    """Read a manifest and check its shape and its own digest.

    Raises:
        BadFileError: missing, too large, not a manifest, or changed after it was written.
    """
    if not path.is_file():
        raise BadFileError(
            "the model has no manifest",
            where=path,
            wanted="the .manifest.json that was exported with it",
            remedy="copy it from where the model came from",
        )
    source = Source("the manifest", path, remedy=_AGAIN, only_known=False)
    document = json_record(_Document, path, source, MAX_BYTES)
    if core_digest(document.core) != document.core_sha256:
        raise BadFileError(
            "the manifest was changed after it was written",
            where=path,
            wanted=message("a core with the digest {digest}", digest=document.core_sha256),
            remedy=_AGAIN,
        )
    facts = record(CoreFacts, document.core, source, "core")
    return Manifest(
        path, document.core, facts, document.core_sha256, document.file, document.created
    )
