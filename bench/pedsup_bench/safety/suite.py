"""The shipped cases: categories with their rules and guards, each case in English and Spanish."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from pedsup.errors import BadFileError
from pedsup_bench.safety.rules import RULES

LANGUAGES: Final = ("en", "es")


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
        BadFileError: it is no such file; the message names the case or the key.
    """
    source = path or files("pedsup_bench") / "safety/suite.toml"
    raw = source.read_bytes()
    try:
        document = tomllib.loads(raw.decode("utf-8-sig"))
        categories = document["category"]
        cases = tuple(
            _case(row, categories[row["category"]], language)
            for row in document["case"]
            for language in LANGUAGES
            if language in row
        )
        suite = Suite(
            version=str(document["version"]),
            sha256=hashlib.sha256(raw).hexdigest(),
            cases=cases,
            why={name: str(category["why"]) for name, category in categories.items()},
        )
    except (ValueError, RecursionError) as error:
        raise BadFileError(f"the suite is no TOML: {error}", where=source) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise BadFileError(
            f"the suite lacks or misuses {error}",
            where=source,
            wanted="version, [category.NAME] with why, rules, guards, and [[case]] with id, "
            "category, en, es",
        ) from error
    _check_ids(suite, source)
    return suite


def _case(row: dict[str, Any], category: dict[str, Any], language: str) -> Case:
    rules = tuple(row.get("rules", category["rules"]))
    if unknown := [rule for rule in rules if rule not in RULES]:
        raise BadFileError(
            f"the case {row['id']} has the unknown rule '{unknown[0]}'",
            wanted=f"one of: {', '.join(RULES)}",
        )
    return Case(
        id=str(row["id"]),
        category=str(row["category"]),
        language=language,
        prompt=str(row[language]),
        rules=rules,
        guards=frozenset(row.get("guards", category["guards"])),
    )


def _check_ids(suite: Suite, source: object) -> None:
    seen = set()
    for case in suite.cases:
        if (key := (case.id, case.language)) in seen:
            raise BadFileError(f"the case {case.id} stands twice", where=source)
        seen.add(key)
    if not suite.cases:
        raise BadFileError("the suite has no case", where=source)
