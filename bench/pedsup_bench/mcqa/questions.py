"""Multiple-choice sets as what is asked: MedMCQA, PeruMedQA and our own (PeruMedQA's form).

The rows are read by `pedsup.questions.multiple_choice`, as in training: what is trained on
and what is asked have the same key.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pedsup.errors import BadFileError, MissingFileError
from pedsup.questions.multiple_choice import (
    LETTERS,
    BadRowError,
    find_key_base,
    read_medmcqa,
    read_perumedqa,
)
from pedsup.questions.table_rows import read_table

__all__ = ["LETTERS", "Question", "QuestionSet", "default_questions", "read_questions"]


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
    if not path.is_file():
        raise MissingFileError("no such file", where=path, remedy="check --questions")
    rows = list(read_table(path))
    rejected = [(number, row) for number, row in rows if isinstance(row, str)]
    kept = [(number, row) for number, row in rows if not isinstance(row, str)]
    medmcqa = [row for _, row in kept if "opa" in row]
    first = 0
    if medmcqa:
        base = find_key_base(medmcqa, answer_base, where=path, option="--answer-base {}")
        first = base.first
    questions = []
    for number, row in kept:
        try:
            questions.append(_question(row, f"line-{number}", language, first))
        except BadRowError as error:
            rejected.append((number, str(error)))
    if not questions:
        why = f": line {min(rejected)[0]}: {min(rejected)[1]}" if rejected else ""
        raise BadFileError(
            f"no usable question{why}", where=path, wanted="MedMCQA or PeruMedQA JSON lines"
        )
    return QuestionSet(tuple(questions), tuple(sorted(rejected)))


def _question(row: dict[str, object], fallback: str, language: str | None, first: int) -> Question:
    found, default = (
        (read_medmcqa(row, first), "en") if "opa" in row else (read_perumedqa(row), "es")
    )
    return Question(
        found.id or fallback,
        language or found.language or default,
        _one_line(found.question),
        tuple(_one_line(option) for option in found.options),
        found.answer,
    )


def _one_line(text: str) -> str:
    return unicodedata.normalize("NFC", " ".join(text.split()))
