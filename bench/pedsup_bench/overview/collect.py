"""The documents of a folder that are of one model, by its digest and its adapter's.

A name proves nothing: two exports may have the same one. What is of another model, of unknown
origin or damaged is kept apart with its reason; nothing is passed over silently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Generic, TypeVar

from pedsup.errors import BadFileError, MismatchError, MissingFileError, PedsupError, UsageError
from pedsup.files.envelope import envelope
from pedsup.files.fsio import sha256_file
from pedsup.files.records import record
from pedsup.texts.safe import label
from pedsup.trust.manifest import SCHEMA as MANIFEST_SCHEMA
from pedsup.trust.manifest import Manifest, read_manifest
from pedsup_bench.gate.check import SCHEMA as GATE_SCHEMA
from pedsup_bench.gate.check import GateFacts
from pedsup_bench.mcqa.result import SCHEMA as MCQA_SCHEMA
from pedsup_bench.mcqa.result import McqaFacts
from pedsup_bench.quality.result import SCHEMA as QUALITY_SCHEMA
from pedsup_bench.report.document import Shown, read_any, source_of
from pedsup_bench.safety.result import SCHEMA as SAFETY_SCHEMA
from pedsup_bench.safety.result import SafetyFacts
from pedsup_bench.speed.result import SCHEMA as RUN_SCHEMA
from pedsup_bench.speed.result import RunDocument
from pedsup_bench.task.result import QualityWithTask

SHOWN: Final = frozenset({RUN_SCHEMA, QUALITY_SCHEMA, MCQA_SCHEMA, SAFETY_SCHEMA, GATE_SCHEMA})
MIN_DIGITS: Final = 8
"""Of a digest that names a model on the command line."""
D = TypeVar("D")


@dataclass(frozen=True)
class Identity:
    """What was measured: SHA-256 of the model, and of the adapter applied to it."""

    model: str
    adapter: str | None = None

    def __str__(self) -> str:
        return self.model + (f" with the adapter {self.adapter}" if self.adapter else "")


@dataclass(frozen=True)
class Result(Generic[D]):
    """A document and its file."""

    path: Path
    document: D


@dataclass(frozen=True)
class LeftOut:
    """A file that is not on the page, and why."""

    path: Path
    why: str


@dataclass(frozen=True)
class Collection:
    """All documents of one model, each kind from the oldest to the newest."""

    identity: Identity
    newest: Shown
    runs: list[Result[RunDocument]] = field(default_factory=list)
    qualities: list[Result[QualityWithTask]] = field(default_factory=list)
    mcqas: list[Result[McqaFacts]] = field(default_factory=list)
    safeties: list[Result[SafetyFacts]] = field(default_factory=list)
    gates: list[Result[GateFacts]] = field(default_factory=list)
    manifests: list[Result[Manifest]] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    @property
    def used(self) -> list[Path]:
        """The files whose contents are on the page."""
        kinds = (self.runs, self.qualities, self.mcqas, self.safeties, self.gates, self.manifests)
        return sorted(result.path for kind in kinds for result in kind)


@dataclass(frozen=True)
class _Candidate:
    path: Path
    schema: str
    value: Mapping[str, object]
    shown: Shown
    identity: Identity

    @property
    def name(self) -> str:
        return self.shown["model"]["file"]


def collect(folder: Path, model: str | None = None) -> Collection:
    """Read all `*.json` of a folder (not of those below it).

    Args:
        model: a model file, or the first digits of the SHA-256 of a model or an adapter; needed
            where the folder holds documents of several.

    Raises:
        MissingFileError: there is no such folder.
        MismatchError: no document is of the model.
        UsageError: documents of several models, and none is named.
    """
    if not folder.is_dir():
        raise MissingFileError("no such folder", where=folder, remedy="check the path")
    candidates, manifests, left_out = _look_through(folder)
    identity = _choose(candidates, model, folder)
    mine = [one for one in candidates if one.identity == identity]
    mine.sort(key=lambda one: one.shown["created"])
    left_out += [
        LeftOut(one.path, f"of another model: {label(one.name)}, SHA-256 {one.identity}")
        for one in candidates
        if one.identity != identity
    ]
    collection = Collection(identity, mine[-1].shown, left_out=left_out)
    for one in mine:
        try:
            _add(collection, one)
        except PedsupError as error:
            left_out.append(LeftOut(one.path, str(error.found)))
    _add_manifests(collection, manifests)
    return collection


def _look_through(
    folder: Path,
) -> tuple[list[_Candidate], list[Result[Manifest]], list[LeftOut]]:
    """Every result and manifest of a folder, and what cannot be read."""
    candidates: list[_Candidate] = []
    manifests: list[Result[Manifest]] = []
    left_out: list[LeftOut] = []
    for path in sorted(folder.glob("*.json")):
        try:
            found = _look_at(path)
        except PedsupError as error:
            left_out.append(LeftOut(path, str(error.found)))
            continue
        if isinstance(found, Manifest):
            manifests.append(Result(path, found))
        else:
            candidates.append(found)
    return candidates, manifests, left_out


def _look_at(path: Path) -> _Candidate | Manifest:
    value = read_any(path)
    schema = value.get("schema") if isinstance(value, Mapping) else None
    if schema == MANIFEST_SCHEMA:
        return read_manifest(path)
    if not isinstance(value, Mapping) or schema not in SHOWN:
        kind = label(schema) if isinstance(schema, str) else None
        raise BadFileError(
            f"documents of the schema {kind} have no place here"
            if kind
            else "not a result of pedsup-bench"
        )
    shown = record(Shown, value, source_of(path))
    return _Candidate(path, str(schema), value, shown, _identity(shown))


def _identity(shown: Shown) -> Identity:
    """By the document's own digests; an older speed run has that of its trust check only."""
    model, trust = shown["model"], shown.get("trust", {})
    digest = model["sha256"] or trust.get("sha256")
    if not isinstance(digest, str):
        raise BadFileError(
            "it does not say of which bytes it is (no SHA-256 of the model): measure again"
        )
    adapter = model.get("adapter")
    if adapter is None:
        return Identity(digest)
    if adapter["sha256"] is None:
        raise BadFileError(
            "it does not say of which adapter it is (no SHA-256 of it): measure again"
        )
    return Identity(digest, adapter["sha256"])


def _choose(candidates: Sequence[_Candidate], model: str | None, folder: Path) -> Identity:
    counted = Counter(one.identity for one in candidates)
    names = {one.identity: one.name for one in candidates}
    told = [f"{label(names[i])}: SHA-256 {i} ({n} documents)" for i, n in counted.items()]
    wanted = [*counted] if model is None else _named(model, counted)
    if len(wanted) == 1:
        return wanted[0]
    if not wanted:
        raise MismatchError(
            f"no document is of the model {model}" if model else "no document of a model",
            where=told or folder,
            wanted="JSON documents of pedsup-bench (--out) in this folder",
            remedy="measure it first, for instance: pedsup-bench run MODEL --out "
            f"{folder / 'run.json'}",
        )
    raise UsageError(
        "documents of several models: a page is of one",
        where=told,
        remedy="give --model with a file or the first digits of its SHA-256",
    )


def _named(model: str, counted: Mapping[Identity, int]) -> list[Identity]:
    """The identities that a file or the first digits of a digest can mean."""
    path = Path(model)
    digits = sha256_file(path) if path.is_file() else model.lower()
    if len(digits) < MIN_DIGITS or set(digits) - set("0123456789abcdef"):
        raise UsageError(
            f"--model {model}: neither a file nor a SHA-256",
            wanted=f"a file, or at least {MIN_DIGITS} hexadecimal digits",
        )
    found = [i for i in counted if i.model.startswith(digits) and i.adapter is None]
    return found or [
        i for i in counted if any(d and d.startswith(digits) for d in (i.model, i.adapter))
    ]


def _add(collection: Collection, one: _Candidate) -> None:
    path, source = one.path, source_of(one.path)
    # Older documents lack the head of newer ones.
    value = {**envelope(one.schema, "pedsup-bench"), "build": None, **one.value}
    if one.schema == RUN_SCHEMA:
        collection.runs.append(Result(path, record(RunDocument, value, source)))
    elif one.schema == QUALITY_SCHEMA:
        collection.qualities.append(Result(path, record(QualityWithTask, value, source)))
    elif one.schema == MCQA_SCHEMA:
        collection.mcqas.append(Result(path, record(McqaFacts, value, source)))
    elif one.schema == SAFETY_SCHEMA:
        collection.safeties.append(Result(path, record(SafetyFacts, value, source)))
    else:
        collection.gates.append(Result(path, record(GateFacts, value, source)))


def _add_manifests(collection: Collection, manifests: Sequence[Result[Manifest]]) -> None:
    ours = (collection.identity.model, collection.identity.adapter)
    for result in manifests:
        sha256 = result.document.file.sha256
        if sha256 in ours:
            collection.manifests.append(result)
        else:
            collection.left_out.append(
                LeftOut(result.path, f"the manifest of another file, SHA-256 {sha256}")
            )
