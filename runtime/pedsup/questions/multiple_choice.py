"""Multiple-choice questions of MedMCQA and PeruMedQA: one reader for training and evaluation.

MedMCQA    {"question", "opa", "opb", "opc", "opd", "cop", "exp", "id"}
           `cop` counts from 0 on the hub and from 1 in the authors' files
PeruMedQA  {"question", "options": {"A": ..., "B": ...}, "answer": "A", "id"}, or in a CSV one
           column per letter

A key means the same whether a tool wrote it as a number (2, 2.0) or as text ("2", "2.0"). A wrong
guess at what `cop` counts from shifts every answer and still gives an accuracy, so it is never
guessed: the values say it, or the caller.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from pedsup.errors import BadFileError, UsageError

LETTERS: Final = "ABCDEFGHIJ"
MEDMCQA_OPTIONS: Final = ("opa", "opb", "opc", "opd")
CSV_LETTERS: Final = "ABCDE"
ENOUGH_SAID: Final = 10
"""Explanations that name their answer, from which their disagreement with the key counts."""


class BadRowError(Exception):
    """Raised by a row parser: why this row is not a question."""


@dataclass(frozen=True)
class Choice:
    """One question, checked; `answer` is the index of the right option. Texts are NFC, stripped."""

    id: str
    """Empty if the row has no explanation."""
    language: str
    """As the row says it, or ''."""
    question: str
    options: tuple[str, ...]
    answer: int
    explanation: str


@dataclass(frozen=True)
class KeyBase:
    """What MedMCQA's `cop` counts from, and how many explanations agree."""

    first: int
    agree: int
    said: int
    """Explanations that name an option."""


def clean_text(value: object) -> str:
    """NFC, Unix line ends, no control characters but newline and tab, stripped; '' for None."""
    if value is None:
        return ""
    text = unicodedata.normalize("NFC", str(value)).replace("\r\n", "\n").replace("\r", "\n")
    text = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")
    return text.strip()


def field_text(row: Mapping[str, object], name: str) -> str:
    """A field as clean text: '' where it is absent, null or NaN; a number as it is written.

    Raises:
        BadRowError: it is a list, an object or true/false, whose spelling in Python would
            otherwise be read as text.
    """
    value = row.get(name)
    if isinstance(value, float) and math.isnan(value):
        return ""
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int | float)):
        raise BadRowError(f"'{name}' is a {type(value).__name__}, no text")
    return clean_text(value)


def fold(text: str) -> str:
    """Case and accents removed, for comparing: 'Pediatría' equals 'PEDIATRIA'."""
    decomposed = unicodedata.normalize("NFD", text.casefold())
    return "".join(c for c in decomposed if unicodedata.category(c) != "Mn").strip()


def whole_number(value: object) -> int | None:
    """2 for 2, 2.0, "2" and "2.0", as table programs write one number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    match = re.fullmatch(r"([+-]?[0-9]{1,3})(?:\.0*)?", str(value).strip())
    return int(match[1]) if match else None


_SAID = re.compile(
    r"^\W*(?:correct\s+)?ans(?:wer)?\b\.?\s*(?:is)?[\s.:\-–=]*(?:option\s*)?['\"‘’“”(\[]*([a-d])(?=\W)",
    re.IGNORECASE,
)


def said_answer(explanation: str) -> int | None:
    """The option that an explanation names at its start ("Ans. is 'c' i.e., ..."), from 0."""
    match = _SAID.match(explanation)
    return "abcd".index(match[1].lower()) if match else None


def find_key_base(
    rows: Iterable[Mapping[str, object]], given: int | None, *, where: object, option: str
) -> KeyBase:
    """What `cop` counts from: as given, or as the values of the whole file say (a 0, or a 4).

    Args:
        given: 0 or 1; None where the caller did not say it.
        option: how the caller can say it, with {} for the number: '--answer-base {}'.

    Raises:
        UsageError: the values leave it open.
        BadFileError: the explanations contradict it.
    """
    keyed = [(whole_number(row.get("cop")), row) for row in rows]
    numbers = Counter(number for number, _ in keyed if number is not None)
    if given is not None:
        first = given
    elif bool(numbers[0]) != bool(numbers[4]):
        first = 1 if numbers[4] else 0
    else:
        raise UsageError(
            f"the answer key 'cop' holds {sorted(numbers)}: whether it counts from 0 or 1 is open",
            where=where,
            wanted="0 to 3, or 1 to 4",
            remedy=f"give {option.format(1)} (the authors' files) or {option.format(0)} (the hub)",
        )
    pairs = [(said_answer(clean_text(row.get("exp"))), n) for n, row in keyed if n is not None]
    said = [(answer, n - first) for answer, n in pairs if answer is not None]
    agree = sum(answer == key for answer, key in said)
    if len(said) >= ENOUGH_SAID and agree < len(said) / 2:
        raise BadFileError(
            f"only {agree} of {len(said)} explanations agree with the answer key",
            where=where,
            wanted=f"a key that counts from {first}",
            remedy=f"give {option.format(1 - first)} if the key counts from {1 - first}",
        )
    return KeyBase(first, agree, len(said))


def read_medmcqa(row: Mapping[str, object], first: int) -> Choice:
    """A MedMCQA row whose key counts from `first`.

    Raises:
        BadRowError: a field is missing or not a text, or the key is not one of the four options.
    """
    names = ("question", *MEDMCQA_OPTIONS, "cop")
    if missing := [name for name in names if row.get(name) is None]:
        raise BadRowError(f"no '{missing[0]}'")
    number = whole_number(row["cop"])
    if number is None or not 0 <= number - first <= 3:
        raise BadRowError(f"answer key {row['cop']!r:.60}, wanted {first} to {first + 3}")
    return _checked(row, "question", [field_text(row, n) for n in MEDMCQA_OPTIONS], number - first)


def read_perumedqa(row: Mapping[str, object]) -> Choice:
    """A PeruMedQA row, its options an object or columns by letter. Raises as `read_medmcqa`."""
    lowered = {str(key).strip().casefold(): value for key, value in row.items()}
    options = lowered.get("options", lowered.get("opciones"))
    if not isinstance(options, dict):
        options = {letter: lowered.get(letter.lower()) for letter in CSV_LETTERS}
    by_letter = {str(key).strip().upper(): value for key, value in options.items()}
    # The fifth option is absent in some years; a hole in the middle is an error of the row.
    letters = [letter for letter in LETTERS if by_letter.get(letter) not in (None, "")]
    if not letters:
        raise BadRowError("no options")
    if more := [key for key, text in by_letter.items() if key not in LETTERS and text]:
        raise BadRowError(f"option {more[0]!r:.60}, wanted at most {LETTERS[0]} to {LETTERS[-1]}")
    if letters != list(LETTERS[: len(letters)]):
        raise BadRowError(f"options {''.join(letters)}, one in between is missing")
    key = lowered.get("answer", lowered.get("correct_answer", lowered.get("respuesta")))
    letter = clean_text(key).upper()
    if len(letter) != 1 or letter not in letters:
        raise BadRowError(f"answer key {key!r:.60}, wanted one of {''.join(letters)}")
    name = "question" if "question" in lowered else "pregunta"
    texts = [field_text(by_letter, letter) for letter in letters]
    return _checked(lowered, name, texts, letters.index(letter))


def _checked(row: Mapping[str, object], name: str, options: list[str], answer: int) -> Choice:
    question = field_text(row, name)
    require_choice(question, options, answer)
    own_id = row.get("id")
    return Choice(
        # A table program writes a missing id as NaN, which is not equal to itself.
        id=clean_text(own_id) if own_id == own_id else "",
        language=clean_text(row.get("language") or row.get("lang")),
        question=question,
        options=tuple(options),
        answer=answer,
        explanation=field_text(row, "exp" if "exp" in row else "explanation"),
    )


def require_choice(question: str, options: list[str] | tuple[str, ...], answer: int) -> None:
    """Raise `BadRowError` for a question that cannot be asked."""
    if not question:
        raise BadRowError("the question is empty")
    if len(options) < 2:
        raise BadRowError(f"{len(options)} option")
    if empty := [LETTERS[i] for i, text in enumerate(options) if not text]:
        raise BadRowError(f"option {empty[0]} is empty")
    if len({fold(text) for text in options}) != len(options):
        raise BadRowError("two options are the same")
    if not 0 <= answer < len(options):
        raise BadRowError(f"the answer key is not one of the {len(options)} options")
