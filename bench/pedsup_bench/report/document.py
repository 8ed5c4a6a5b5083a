"""The JSON documents of this stage: their common head, and how they are written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict, TypeVar

import pedsup
from pedsup.engine.build_probe import library_build
from pedsup.engine.vector_units import Build, BuildFacts
from pedsup.errors import BadFileError, MissingFileError
from pedsup.files.direct_io import DirectFile, sha256_range
from pedsup.files.envelope import Envelope, envelope
from pedsup.files.records import record
from pedsup.files.source import Source, read_json
from pedsup.gguf_file import read_header
from pedsup.progress import byte_bar
from pedsup.texts.intended_use import SHORT

MAX_BYTES = 64 << 20
T = TypeVar("T")


class Head(Envelope):
    """The fields that every document of this stage starts with."""

    created: str
    pedsup: str
    intended_use: str
    build: BuildFacts | None


class _FileFacts(TypedDict):
    file: str
    size: int
    sha256: str | None
    architecture: str
    name: object
    file_type: object
    n_tensors: int
    parameters: int
    tensor_types: dict[str, int]


class ModelFacts(_FileFacts, total=False):
    """A model file, and the adapter that is applied to it."""

    adapter: ModelFacts


class _Measured(TypedDict):
    created: str
    intended_use: str
    model: ModelFacts


class Shown(_Measured, total=False):
    """What the page of any document shows of it."""

    trust: dict[str, object]


def head(schema: str) -> Head:
    """The fields every document starts with."""
    return {
        **envelope(schema, "pedsup-bench"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "pedsup": pedsup.__version__,
        "intended_use": SHORT["en"],
        "build": describe_build(library_build()),
    }


def describe_build(build: Build | None) -> BuildFacts | None:
    """How llama.cpp was built, compared with this processor; None if it does not tell."""
    return build.describe() if build else None


def describe_model(path: Path, adapter: Path | None = None, *, digest: bool = True) -> ModelFacts:
    """Name, size, type and SHA-256 of a model file, and of the adapter applied to it."""
    if adapter is not None:
        own = describe_model(path, digest=digest)
        own["adapter"] = describe_model(adapter, digest=digest)
        return own
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


def dumps(document: Mapping[str, object]) -> str:
    """As JSON, which has no NaN and no infinity: they become null."""
    return json.dumps(finite(document), indent=1, ensure_ascii=False, allow_nan=False)


def finite(value: object) -> object:
    """The same value with None for NaN and infinity."""
    if is_dataclass(value) and not isinstance(value, type):
        return finite(asdict(value))
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(kind: type[T], path: Path, schema: str) -> T:
    """Read a document and check that it is of the wanted kind.

    Raises:
        MissingFileError: it is not there.
        BadFileError: too large, not JSON, another schema, or a field is missing or wrong.
    """
    value = read_any(path)
    found = value.get("schema") if isinstance(value, dict) else None
    if found != schema:
        raise BadFileError(
            f"not a result of this kind: its schema is {found!r:.60}",
            where=path,
            wanted=f"a JSON document with the schema {schema}",
        )
    return record(kind, value, source_of(path))


def read_any(path: Path) -> object:
    """The JSON of a result of any kind; its fields are not looked at.

    Raises:
        MissingFileError: it is not there.
        BadFileError: too large or not JSON.
    """
    if not path.is_file():
        raise MissingFileError("no such file", where=path, remedy="check the path")
    return read_json(path, source_of(path), MAX_BYTES)


def source_of(path: Path) -> Source:
    """The source of a result, for its errors; other versions may have other fields."""
    return Source("the result", path, only_known=False)


def as_written(kind: type[T], document: Mapping[str, object], where: object) -> T:
    """A document as JSON, for the pages, which show what is written."""
    source = Source("the result", where, only_known=False)
    return record(kind, json.loads(dumps(document)), source)


def _sha256(path: Path) -> str:
    size = path.stat().st_size
    with byte_bar(size, "digest") as bar:
        return sha256_range(DirectFile(path), 0, size, bar.update)
