"""Readers of multiple-choice sets: MedMCQA, PeruMedQA and our own, as JSON lines.

MedMCQA    {"question", "opa", "opb", "opc", "opd", "cop", "subject_name", "id"}
           `cop` counts from 0 on the hub and from 1 in the original files
PeruMedQA  {"question", "options": {"A": ..., "B": ...}, "answer": "A", "id"}
ours       the same with "language"
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from pedsup.errors import BadFileError, MissingFileError, UsageError

LETTERS: Final = "ABCDEFGH"
MAX_LINE: Final = 1 << 20
_MEDMCQA_OPTIONS: Final = ("opa", "opb", "opc", "opd")


@dataclass(frozen=True)
class Question:
    """One question; `answer` is the index of the right option."""

    id: str
    language: str
    text: str
    options: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class QuestionSet:
    """Questions and the lines that could not be used, as (line number, reason)."""

    questions: tuple[Question, ...]
    rejected: tuple[tuple[int, str], ...]


def default_questions() -> QuestionSet:
    """The 20 shipped questions (CC0), half English, half Spanish."""
    file = resources.files("pedsup_bench") / "data" / "questions.jsonl"
    return _parse(enumerate(file.read_text("utf-8").splitlines(), 1), None, None)


def read_questions(
    path: Path, *, language: str | None = None, answer_base: int | None = None
) -> QuestionSet:
    """Read a JSON-lines file.

    Args:
        path: the file.
        language: heads the figures; default: the row's own, 'en' for MedMCQA, 'es' for PeruMedQA.
        answer_base: what MedMCQA's `cop` counts from; default: found from the values.

    Raises:
        MissingFileError: no such file.
        BadFileError: not UTF-8, or no usable question in it.
        UsageError: the base of `cop` cannot be told from the values.
    """
    if not path.is_file():
        raise MissingFileError("no such file", where=path, remedy="check --questions")
    try:
        with path.open(encoding="utf-8") as file:
            found = _parse(enumerate(file, 1), language, answer_base)
    except UnicodeDecodeError as error:
        raise BadFileError("the questions are not UTF-8", where=path) from error
    if not found.questions:
        first = f": line {found.rejected[0][0]}: {found.rejected[0][1]}" if found.rejected else ""
        raise BadFileError(
            f"no usable question{first}", where=path, wanted="MedMCQA or PeruMedQA JSON lines"
        )
    return found


def _parse(
    lines: Iterator[tuple[int, str]] | enumerate[str], language: str | None, base: int | None
) -> QuestionSet:
    rows: list[tuple[int, dict[str, Any]]] = []
    rejected: list[tuple[int, str]] = []
    for number, line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line) if len(line) <= MAX_LINE else None
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append((number, row))
        else:
            rejected.append((number, "no JSON object"))
    if base is None:
        base = _answer_base([row for _, row in rows])
    questions = []
    for number, row in rows:
        try:
            questions.append(_question(row, f"line-{number}", language, base))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            rejected.append((number, f"{type(error).__name__}: {error}"))
    return QuestionSet(tuple(questions), tuple(sorted(rejected)))


def _answer_base(rows: list[dict[str, Any]]) -> int:
    """0 or 1 from the `cop` values of a whole file."""
    values = {row["cop"] for row in rows if isinstance(row.get("cop"), int)}
    if not values:
        return 0
    if 0 in values and 4 not in values:
        return 0
    if 4 in values and 0 not in values:
        return 1
    raise UsageError(
        f"the answers `cop` are {sorted(values)}",
        wanted="0 to 3, or 1 to 4",
        remedy="give --answer-base 0 (hub) or 1 (original files)",
    )


def _question(row: dict[str, Any], fallback: str, language: str | None, base: int) -> Question:
    if "opa" in row:
        options = [row[name] for name in _MEDMCQA_OPTIONS]
        answer, default = int(row["cop"]) - base, "en"
    else:
        letters = sorted(row["options"])
        options = [row["options"][letter] for letter in letters]
        answer, default = letters.index(str(row["answer"]).strip().upper()), "es"
    if not 2 <= len(options) <= len(LETTERS):
        raise ValueError(f"{len(options)} options")
    if not 0 <= answer < len(options):
        raise ValueError(f"the answer is option {answer} of {len(options)}")
    texts = [_clean(text) for text in (row["question"], *options)]
    if not all(texts):
        raise ValueError("an empty question or option")
    name = language or row.get("language") or default
    return Question(str(row.get("id") or fallback), name, texts[0], tuple(texts[1:]), answer)


def _clean(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError("a text is not a string")
    return unicodedata.normalize("NFC", " ".join(text.split()))
