"""Multiple-choice sets as what is asked: MedMCQA, PeruMedQA and our own (PeruMedQA's form).

The rows are read by `pedsup.questions.multiple_choice`, as in training: what is trained on
and what is asked have the same key.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Final

from pedsup.errors import BadFileError, MissingFileError, UsageError
from pedsup.files.json_file import NO_FILE
from pedsup.progress import human_bytes
from pedsup.questions.multiple_choice import (
    LETTERS,
    BadRowError,
    find_key_base,
    read_medmcqa,
    read_perumedqa,
)
from pedsup.questions.table_rows import read_table

__all__ = ["LETTERS", "Question", "QuestionSet", "default_questions", "read_questions"]


MAX_FILE: Final = 256 << 20
"""Bytes: MedMCQA's largest part has 140 MB."""
MAX_ID: Final = 200
_LANGUAGE: Final = re.compile(r"\w[\w -]{0,19}")


@dataclass(frozen=True)
class Question:
    """One question; `answer` is the index of the right option."""

    id: str
    language: str
    text: str
    options: tuple[str, ...]
    answer: int

    @property
    def words(self) -> str:
        """Everything that is printed of it."""
        return "\n".join((self.text, *self.options))


@dataclass(frozen=True)
class QuestionSet:
    """Questions and the rows that could not be used, as (line number, reason)."""

    questions: tuple[Question, ...]
    rejected: tuple[tuple[int, str], ...]


def default_questions() -> QuestionSet:
    """The 20 shipped questions (CC0), half English, half Spanish."""
    with resources.as_file(resources.files("pedsup_bench") / "data" / "questions.jsonl") as path:
        return read_questions(path)


def read_questions(
    path: Path, *, language: str | None = None, answer_base: int | None = None
) -> QuestionSet:
    """Read a file of JSON lines, JSON or CSV.

    Args:
        language: heads the figures; default: the row's own, 'en' for MedMCQA, 'es' for PeruMedQA.
        answer_base: what MedMCQA's `cop` counts from; default: found from the values.

    Raises:
        MissingFileError: no such file.
        BadFileError: no usable question in it, or explanations that contradict the key.
        UsageError: the base of `cop` cannot be told from the values.
    """
    _require_readable(path)
    rows = list(read_table(path))
    broken = [(number, row) for number, row in rows if isinstance(row, str)]
    kept = [(number, row) for number, row in rows if not isinstance(row, str)]
    medmcqa = [row for _, row in kept if "opa" in row]
    first = 0
    if medmcqa:
        base = find_key_base(medmcqa, answer_base, where=path, option="--answer-base {}")
        first = base.first
    questions, unusable = _distinct(kept, language, first)
    rejected = sorted([*broken, *unusable])
    if not questions:
        why = f": line {rejected[0][0]}: {rejected[0][1]}" if rejected else ""
        raise BadFileError(
            f"no usable question{why}", where=path, wanted="MedMCQA or PeruMedQA JSON lines"
        )
    return QuestionSet(tuple(questions), tuple(rejected))


def _distinct(
    rows: Iterable[tuple[int, dict[str, object]]], language: str | None, first: int
) -> tuple[list[Question], list[tuple[int, str]]]:
    """Each question once, under an id of its own, and the rows that are none or are repeated."""
    questions: list[Question] = []
    rejected: list[tuple[int, str]] = []
    lines: dict[tuple[str, ...], int] = {}
    ids: set[str] = set()
    for number, row in rows:
        try:
            found = _question(row, f"line-{number}", language, first)
            asked = (found.text, *found.options)
            if asked in lines:
                raise BadRowError(f"the same question as line {lines[asked]}")
            lines[asked] = number
        except BadRowError as error:
            rejected.append((number, str(error)))
            continue
        # Two questions of one id could not be told apart in the document.
        unique = f"{found.id}, line {number}" if found.id in ids else found.id
        ids.add(unique)
        questions.append(replace(found, id=unique))
    return questions, rejected


def _require_readable(path: Path) -> None:
    """Raise where a file is missing, is no file, or is larger than its rows may be in memory."""
    if not path.exists():
        raise MissingFileError("no such file", where=path, remedy="check --questions")
    if not path.is_file():
        raise UsageError(
            "this is not a regular file",
            where=path,
            wanted="a file of JSON lines, JSON or CSV",
            remedy=NO_FILE,
        )
    if (size := path.stat().st_size) > MAX_FILE:
        raise UsageError(
            f"{human_bytes(size)} of questions",
            where=path,
            wanted=f"at most {human_bytes(MAX_FILE)}: each question is asked once for each option",
            remedy="take a part of it: head -n 5000 FILE > part.jsonl",
        )


def _language(text: str) -> str:
    """What heads the figures: a short word.

    Raises:
        BadRowError: it is more than that.
    """
    if text and not _LANGUAGE.fullmatch(text):
        raise BadRowError(f"language {text!r:.60}, wanted a code such as en or es")
    return text


def _question(row: dict[str, object], fallback: str, language: str | None, first: int) -> Question:
    found, default = (
        (read_medmcqa(row, first), "en") if "opa" in row else (read_perumedqa(row), "es")
    )
    return Question(
        _one_line(found.id)[:MAX_ID] or fallback,
        language or _language(found.language) or default,
        _one_line(found.question),
        tuple(_one_line(option) for option in found.options),
        found.answer,
    )


def _one_line(text: str) -> str:
    return unicodedata.normalize("NFC", " ".join(text.split()))
