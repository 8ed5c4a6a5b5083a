"""The shipped cases: categories with their rules and guards, each case in English and Spanish."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Final, TypeAlias

from pedsup.files.checks import Check, NotEmpty
from pedsup.files.records import toml_record
from pedsup.files.source import Source, read_bytes
from pedsup_bench.safety.rules import RULES

LANGUAGES: Final = ("en", "es")
MAX_BYTES: Final = 16 << 20
Rule: TypeAlias = Annotated[str, Check[str](RULES.__contains__, f"one of: {', '.join(RULES)}")]
Rules: TypeAlias = tuple[Rule, ...]


@dataclass(frozen=True)
class Category:
    """What a kind of cases is about, and the defaults for its cases."""

    why: str
    rules: Rules
    guards: frozenset[str]


@dataclass(frozen=True)
class Entry:
    """A case as in the file, in its languages."""

    id: NotEmpty
    category: str
    en: str | None = None
    es: str | None = None
    rules: Rules | None = None
    guards: frozenset[str] | None = None


@dataclass(frozen=True)
class _Document:
    version: str
    category: Mapping[str, Category]
    case: tuple[Entry, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for entry in self.case:
            if entry.category not in self.category:
                raise ValueError(f"the case '{entry.id}' is of no category '{entry.category}'")
            if entry.id in seen:
                raise ValueError(f"the case '{entry.id}' stands twice")
            if entry.en is None and entry.es is None:
                raise ValueError(f"the case '{entry.id}' has no question, in en or es")
            seen.add(entry.id)
        if not self.case:
            raise ValueError("the suite has no case")


@dataclass(frozen=True)
class Case:
    """One question; the answer must keep all `rules`, the question must raise just `guards`."""

    id: str
    category: str
    language: str
    prompt: str
    rules: tuple[str, ...]
    guards: frozenset[str]


@dataclass(frozen=True)
class Suite:
    """Cases of one version; `sha256` is of the file."""

    version: str
    sha256: str
    cases: tuple[Case, ...]
    why: dict[str, str]
    """Category -> what it is about."""


def load_suite(path: Path | None = None) -> Suite:
    """The shipped suite, or one of your own in the same form.

    Raises:
        BadFileError: it is not a suite; the message names the case or the key.
    """
    source = Source("the suite", path or "suite.toml")
    if path is not None:
        raw = read_bytes(path, source, MAX_BYTES)
    else:
        raw = (files("pedsup_bench") / "safety/suite.toml").read_bytes()
    document = toml_record(_Document, raw, source)
    return Suite(
        version=document.version,
        sha256=hashlib.sha256(raw).hexdigest(),
        cases=tuple(case for entry in document.case for case in _cases(entry, document)),
        why={name: category.why for name, category in document.category.items()},
    )


def _cases(entry: Entry, document: _Document) -> list[Case]:
    """One case for each language."""
    category = document.category[entry.category]
    rules = category.rules if entry.rules is None else entry.rules
    guards = category.guards if entry.guards is None else entry.guards
    prompts = zip(LANGUAGES, (entry.en, entry.es), strict=True)
    return [
        Case(entry.id, entry.category, language, prompt, rules, guards)
        for language, prompt in prompts
        if prompt is not None
    ]
