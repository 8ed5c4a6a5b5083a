"""The JSON documents of this stage: what stands at the top of each, and how they are written."""

from __future__ import annotations

import hashlib
import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pedsup
from pedsup.engine.build_probe import library_build
from pedsup.engine.vector_units import Build
from pedsup.errors import BadFileError, MissingFileError
from pedsup.files.fsio import CHUNK, atomic_file
from pedsup.gguf_file import read_header
from pedsup.progress import byte_bar
from pedsup.texts.intended_use import SHORT

MAX_BYTES = 64 << 20


def head(schema: str) -> dict[str, Any]:
    """The fields every document starts with."""
    return {
        "schema": schema,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "pedsup": pedsup.__version__,
        "intended_use": SHORT["en"],
        "build": describe_build(library_build()),
    }


def describe_build(build: Build | None) -> dict[str, Any] | None:
    """How llama.cpp was built, beside this processor; None where it does not tell."""
    return build.describe() if build else None


def describe_model(
    path: Path, adapter: Path | None = None, *, digest: bool = True
) -> dict[str, Any]:
    """Name, size, type and SHA-256 of a model file, and of the adapter applied to it."""
    if adapter is not None:
        own = describe_model(path, digest=digest)
        return {**own, "adapter": describe_model(adapter, digest=digest)}
    header = read_header(path)
    types = [tensor.type.name for tensor in header.tensors.values()]
    return {
        "file": path.name,
        "size": header.file_size,
        "sha256": _sha256(path) if digest else None,
        "architecture": header.architecture,
        "name": header.metadata.get("general.name"),
        "file_type": header.metadata.get("general.file_type"),
        "n_tensors": len(types),
        "parameters": sum(t.n_elements for t in header.tensors.values()),
        "tensor_types": {name: types.count(name) for name in sorted(set(types))},
    }


def write(document: dict[str, Any], path: Path, *, force: bool) -> None:
    """Write a document whole or not at all."""
    with atomic_file(path, force=force) as file:
        file.write(dumps(document).encode("utf-8") + b"\n")


def dumps(document: dict[str, Any]) -> str:
    """As JSON, which has no NaN and no infinity: they become null."""
    return json.dumps(finite(document), indent=1, ensure_ascii=False, allow_nan=False)


def finite(value: Any) -> Any:
    """The same, with None for NaN and infinity."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(path: Path, schema: str) -> dict[str, Any]:
    """Read a document and check that it is of the wanted kind.

    Raises:
        MissingFileError: it is not there.
        BadFileError: too large, no JSON, or another schema.
    """
    if not path.is_file():
        raise MissingFileError("no such file", where=path, remedy="check the path")
    if path.stat().st_size > MAX_BYTES:
        raise BadFileError("too large for a result of pedsup-bench", where=path)
    try:
        document = json.loads(path.read_text("utf-8-sig"))
        found = document["schema"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadFileError(
            f"not a result of pedsup-bench: {error}",
            where=path,
            wanted=f"a JSON document with the schema {schema}",
        ) from error
    if found != schema:
        raise BadFileError(f"schema {found!r}", where=path, wanted=schema)
    return dict(document)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file, byte_bar(path.stat().st_size, "digest") as bar:
        while block := file.read(CHUNK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()
