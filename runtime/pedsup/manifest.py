"""The manifest beside a model: what it was made of, and digests of every part of it.

    model.gguf                     holds `pedsup.manifest.sha256` in its metadata
    model.gguf.manifest.json       {"schema", "core_sha256", "core": {...}, "file": {...}, ...}

`core_sha256` is the SHA-256 of `core` in canonical JSON, and it is the digest that stands in
the GGUF. `core` names base, adapter, recipe and each tensor's SHA-256; `file` (the digest of the
whole GGUF, which contains the former) stands beside it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pedsup.errors import BadFileError

SCHEMA: Final = "pedsup-manifest/1"
DIGEST_KEY: Final = "pedsup.manifest.sha256"
"""The GGUF metadata key that holds the manifest's `core_sha256`."""
MAX_BYTES: Final = 64 << 20


def manifest_path(model: Path) -> Path:
    """Where the manifest of a model lies."""
    return model.with_name(model.name + ".manifest.json")


def core_digest(core: dict[str, Any]) -> str:
    """SHA-256 of `core` as canonical JSON: sorted keys, no spaces, UTF-8."""
    text = json.dumps(core, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


@dataclass(frozen=True)
class Manifest:
    """A manifest whose own digest was checked."""

    path: Path
    core: dict[str, Any]
    core_sha256: str
    file: dict[str, Any]
    """`name`, `size` in bytes, `sha256` of the whole GGUF."""
    created: str

    @property
    def tensors(self) -> dict[str, dict[str, Any]]:
        """Tensor name -> type, shape, bytes, sha256."""
        tensors: dict[str, dict[str, Any]] = self.core["tensors"]
        return tensors


def manifest_document(core: dict[str, Any], file: dict[str, Any], created: str) -> dict[str, Any]:
    """The JSON document that `read_manifest` reads."""
    return {
        "schema": SCHEMA,
        "created": created,
        "file": file,
        "core_sha256": core_digest(core),
        "core": core,
    }


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
    if path.stat().st_size > MAX_BYTES:
        raise BadFileError("too large for a manifest", where=path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise BadFileError(f"schema {document['schema']!r}", where=path, wanted=SCHEMA)
        core, file = document["core"], document["file"]
        manifest = Manifest(path, core, document["core_sha256"], file, document["created"])
        wrong = not isinstance(file["sha256"], str) or not isinstance(file["size"], int)
        if wrong or not all("sha256" in t for t in core["tensors"].values()):
            raise TypeError("fields of the wrong type")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadFileError(
            f"not a pedsup manifest ({type(error).__name__}: {error})",
            where=path,
            remedy="copy the manifest again from where the model came from",
        ) from error
    if core_digest(core) != manifest.core_sha256:
        raise BadFileError(
            "the manifest was changed after it was written",
            where=path,
            wanted=f"a core with the digest {manifest.core_sha256}",
            remedy="copy the manifest again from where the model came from",
        )
    return manifest
