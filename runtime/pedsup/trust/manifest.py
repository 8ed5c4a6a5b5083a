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
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pedsup.errors import BadFileError
from pedsup.files.json_file import read_json_object
from pedsup.messages import message

SCHEMA: Final = "pedsup-manifest/1"
DIGEST_KEY: Final = "pedsup.manifest.sha256"
"""The GGUF metadata key that holds the manifest's `core_sha256`."""
MAX_BYTES: Final = 8 << 20
"""E4B's has 0.3 MB."""
_DIGEST: Final = re.compile("[0-9a-f]{64}")
_AGAIN: Final = message("copy the manifest again from where the model came from")


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
    document = read_json_object(path, "the manifest", MAX_BYTES, remedy=_AGAIN)
    if document.get("schema") != SCHEMA:
        raise BadFileError(
            message("a manifest of schema {name}", name=f"{document.get('schema')!r:.60}"),
            where=path,
            wanted=SCHEMA,
            remedy=_AGAIN,
        )
    wrong = _wrong_field(document)
    if wrong:
        raise BadFileError(
            message("not a pedsup manifest: '{field}' is missing or not valid", field=wrong),
            where=path,
            remedy=_AGAIN,
        )
    core, digest = document["core"], document["core_sha256"]
    if core_digest(core) != digest:
        raise BadFileError(
            "the manifest was changed after it was written",
            where=path,
            wanted=message("a core with the digest {digest}", digest=f"{digest:.64}"),
            remedy=_AGAIN,
        )
    return Manifest(path, core, digest, document["file"], document["created"])


def _wrong_field(document: dict[str, Any]) -> str | None:
    """The first field that a reader of the manifest could not use; None when all are right."""
    kinds = {"core": dict, "core_sha256": str, "file": dict, "created": str}
    for name, kind in kinds.items():
        if not isinstance(document.get(name), kind):
            return name
    core, file = document["core"], document["file"]
    if not _is_digest(document["core_sha256"]):
        return "core_sha256"
    if not _is_digest(file.get("sha256")):
        return "file.sha256"
    if not _is_count(file.get("size")):
        return "file.size"
    for name in ("base", "adapter", "recipe", "quality", "tokenizer", "vocabulary"):
        if not isinstance(core.get(name), dict | None):
            return f"core.{name}"
    shares = (core.get("adapter") or {}).get("shares", {})
    if not isinstance(shares, dict) or not all(_is_number(v) for v in shares.values()):
        return "core.adapter.shares"
    tensors = core.get("tensors")
    if not isinstance(tensors, dict):
        return "core.tensors"
    return next((f"core.tensors.{n}" for n, t in tensors.items() if not _is_tensor(t)), None)


def _is_tensor(entry: Any) -> bool:
    """`bytes` and `type` are only shown, where they are there at all."""
    return (
        isinstance(entry, dict)
        and _is_digest(entry.get("sha256"))
        and _is_count(entry.get("bytes", 0))
        and isinstance(entry.get("type", ""), str)
    )


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
