"""From rows to examples: the published forms of MedMCQA, PeruMedQA and CasiMedicos, and pairs.

A row that cannot be an example is reported with its place and the reason; nothing is
repaired by guessing and nothing skipped in silence.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

from pedsup.errors import BadFileError, UsageError
from pedsup_train.examples import (
    LETTERS,
    BadRow,
    BadRowError,
    Example,
    ReadResult,
    clean_text,
    field_text,
    fold,
    place,
)
from pedsup_train.recipe import SourceConfig
from pedsup_train.rows import Row, read_rows, source_name

SUBJECT_FIELDS: Final = ("subject_name", "subject", "specialty", "especialidad", "area", "type")


def read_source(source: SourceConfig, *, seed: int) -> ReadResult:
    """Read one source into examples, with everything left out counted.

    Raises:
        UsageError: the subject filter names no field or matches nothing.
        BadFileError: the answer key cannot be right as a whole.
    """
    digest, rows = read_rows(source)
    result = ReadResult(source_name(source), digest)
    kept = _filter_subject(source, rows, result)
    parse = _parser(source, kept, result)
    for where, row in kept:
        try:
            example = parse(where, row)
            _check(example)
        except BadRowError as error:
            result.bad.append(BadRow(where, str(error)))
        else:
            result.examples.append(example)
    result.bad.sort(key=place)  # rows that were no rows were found in an earlier pass
    if not result.examples and result.rows:
        raise BadFileError(
            f"none of {result.rows} rows gives an example"
            + (f"; the first: {result.bad[0].reason}" if result.bad else ""),
            where=result.name,
            wanted=f"rows of the form '{source.format}'",
        )
    return result


def limit(result: ReadResult, n: int, *, seed: int) -> None:
    """Keep `n` examples, chosen by a hash of seed and id: independent of the order of the file."""
    if n <= 0 or len(result.examples) <= n:
        return

    def draw(example: Example) -> bytes:
        return hashlib.sha256(f"{seed}|{example.id}".encode()).digest()

    chosen = {id(example) for example in sorted(result.examples, key=draw)[:n]}
    result.over_limit = len(result.examples) - n
    result.examples = [example for example in result.examples if id(example) in chosen]


def _filter_subject(
    source: SourceConfig, rows: Iterable[Row], result: ReadResult
) -> list[tuple[str, dict[str, Any]]]:
    kept: list[tuple[str, dict[str, Any]]] = []
    seen: Counter[str] = Counter()
    wanted = fold(source.subject)
    for where, row in rows:
        result.rows += 1
        if isinstance(row, BadRow):
            result.bad.append(row)
            continue
        subject = _subject(row)
        if wanted and subject is None:
            result.bad.append(BadRow(where, "no subject field, and a subject is asked for"))
        elif wanted and fold(subject or "") != wanted:
            seen[subject or ""] += 1
            result.other_subject += 1
        else:
            kept.append((where, row))
    if result.rows and wanted and not kept and seen:
        raise UsageError(
            f"no row of the subject '{source.subject}'",
            where=result.name,
            wanted="one of: " + ", ".join(name for name, _ in seen.most_common(30)),
        )
    return kept


def _subject(row: dict[str, Any]) -> str | None:
    for name in SUBJECT_FIELDS:
        if row.get(name):
            return str(row[name])
    text = row.get("text")
    if isinstance(text, str) and (match := re.match(r"QUESTION TYPE:\s*(.+)", text)):
        return match[1].strip()
    return None


def _parser(
    source: SourceConfig, rows: list[tuple[str, dict[str, Any]]], result: ReadResult
) -> Callable[[str, dict[str, Any]], Example]:
    if source.format == "medmcqa":
        first = _medmcqa_first_option(source, [row for _, row in rows], result)
        return lambda where, row: _medmcqa(source, where, row, first)
    parsers = {"pairs": _pair, "perumedqa": _perumedqa, "casimedicos": _casimedicos}
    parse = parsers[source.format]
    return lambda where, row: parse(source, where, row)


def _check(example: Example) -> None:
    if not example.question:
        raise BadRowError("the question is empty")
    if not example.options:
        if not example.explanation:
            raise BadRowError("the answer is empty")
        return
    if len(example.options) < 2:
        raise BadRowError(f"{len(example.options)} option")
    if empty := [LETTERS[i] for i, text in enumerate(example.options) if not text]:
        raise BadRowError(f"option {empty[0]} is empty")
    if len({fold(text) for text in example.options}) != len(example.options):
        raise BadRowError("two options are the same")
    if not 0 <= example.answer < len(example.options):
        raise BadRowError(f"the answer key is no option of {len(example.options)}")


def _pair(source: SourceConfig, where: str, row: dict[str, Any]) -> Example:
    missing = [name for name in ("question", "answer") if name not in row]
    if missing:
        raise BadRowError(f"no field '{missing[0]}'")
    return Example(
        id=str(row.get("id") or where),
        source=source_name(source),
        lang=str(row.get("lang") or source.lang),
        question=field_text(row, "question"),
        explanation=field_text(row, "answer"),
        group=str(row.get("parallel") or ""),
    )


# ---- MedMCQA ------------------------------------------------------------------------------
_SAID = re.compile(
    r"^\W*(?:correct\s+)?ans(?:wer)?\b\.?\s*(?:is)?[\s.:\-–=]*(?:option\s*)?['\"‘’“”(\[]*([a-d])(?=\W)",
    re.IGNORECASE,
)


def said_answer(explanation: str) -> int | None:
    """The option that an explanation names at its start ("Ans. is 'c' i.e., ..."), from 0."""
    match = _SAID.match(explanation)
    return "abcd".index(match[1].lower()) if match else None


def _number(value: object) -> int | None:
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    text = str(value).strip()
    return int(text) if re.fullmatch(r"-?\d{1,3}", text) else None


def _medmcqa_first_option(
    source: SourceConfig, rows: list[dict[str, Any]], result: ReadResult
) -> int:
    """The number that `cop` gives the first option.

    The authors' files count from 1, the hub's from 0. A wrong guess shifts every answer and
    still trains without a complaint, so the numbers must say it (a 4, or a 0), and the
    explanations that name their answer must agree.
    """
    numbers = Counter(number for row in rows if (number := _number(row.get("cop"))) is not None)
    if source.answer_base != "auto":
        first = int(source.answer_base)
    elif numbers[0] and not numbers[4]:
        first = 0
    elif numbers[4] and not numbers[0]:
        first = 1
    else:
        raise BadFileError(
            f"the answer key 'cop' holds {sorted(numbers)}: whether it counts from 0 or 1 is open",
            where=result.name,
            remedy='say it in the recipe: answer_base = "1" (authors\' files) or "0" (hub)',
        )
    agree = total = 0
    for row in rows:
        said, number = said_answer(clean_text(row.get("exp"))), _number(row.get("cop"))
        if said is not None and number is not None:
            total += 1
            agree += said == number - first
    if total:
        result.notes.append(
            f"answer key counts from {first}; {agree} of {total} explanations that name an"
            " option agree with it"
        )
    if total >= 10 and agree < total / 2:
        raise BadFileError(
            f"only {agree} of {total} explanations agree with the answer key",
            where=result.name,
            wanted=f"a key that counts from {first}",
            remedy=f'set answer_base = "{1 - first}" if the key counts from {1 - first}',
        )
    return first


def _medmcqa(source: SourceConfig, where: str, row: dict[str, Any], first: int) -> Example:
    names = ("question", "opa", "opb", "opc", "opd", "cop")
    missing = [name for name in names if row.get(name) is None]
    if missing:
        raise BadRowError(f"no '{missing[0]}'")
    number = _number(row["cop"])
    if number is None or not 0 <= number - first <= 3:
        raise BadRowError(f"answer key {row['cop']!r}, wanted {first} to {first + 3}")
    return Example(
        id=str(row.get("id") or where),
        source=source_name(source),
        lang=source.lang or "en",
        question=field_text(row, "question"),
        options=tuple(field_text(row, name) for name in names[1:5]),
        answer=number - first,
        explanation=field_text(row, "exp"),
    )


# ---- PeruMedQA ----------------------------------------------------------------------------
def _perumedqa(source: SourceConfig, where: str, row: dict[str, Any]) -> Example:
    """`options` as an object of letters, or one column per letter (CSV)."""
    lowered = {str(key).strip().casefold(): value for key, value in row.items()}
    question = field_text(lowered, "question" if "question" in lowered else "pregunta")
    options = lowered.get("options", lowered.get("opciones"))
    if not isinstance(options, dict):
        options = {letter: lowered.get(letter.lower()) for letter in "ABCDE"}
    by_letter = {str(key).strip().upper(): value for key, value in options.items()}
    # The fifth option is absent in some years; a hole in the middle is an error of the row.
    letters = [letter for letter in "ABCDE" if by_letter.get(letter) not in (None, "")]
    if not question or not letters:
        raise BadRowError("no question" if not question else "no options")
    if letters != list("ABCDE")[: len(letters)]:
        raise BadRowError(f"options {''.join(letters)}, one in between is missing")
    key = lowered.get("answer", lowered.get("correct_answer", lowered.get("respuesta")))
    letter = clean_text(key).upper()[:1]
    if len(clean_text(key)) != 1 or letter not in letters:
        raise BadRowError(f"answer key {key!r}, wanted one of {''.join(letters)}")
    return Example(
        id=str(row.get("id") or where),
        source=source_name(source),
        lang=str(row.get("lang") or source.lang or "es"),
        question=re.sub(r"\s*\n\s*", " ", question),
        options=tuple(field_text(by_letter, name) for name in letters),
        answer=letters.index(letter),
        explanation=field_text(row, "explanation"),
    )


# ---- CasiMedicos --------------------------------------------------------------------------
_CASE = re.compile(
    r"CLINICAL CASE:\s*(?P<case>.*?)\n(?P<options>1-\s.*?)\nCORRECT ANSWER:\s*(?P<key>\S+)\s*\n?"
    r"(?P<exp>.*)\Z",
    re.DOTALL,
)
_OPTION = re.compile(r"^(\d)-\s*(.*?)(?=\n\d-\s|\Z)", re.DOTALL | re.MULTILINE)


def _casimedicos(source: SourceConfig, where: str, row: dict[str, Any]) -> Example:
    """The data set's text form, or its structured one (full_question, options, correct_option)."""
    if "text" in row:
        match = _CASE.search(clean_text(row["text"]))
        if match is None:
            raise BadRowError("not 'CLINICAL CASE: ... 1- ... CORRECT ANSWER: n ...'")
        question, key, explanation = match["case"], match["key"], match["exp"]
        options = dict(_OPTION.findall(match["options"]))
    else:
        if "full_question" not in row or not isinstance(row.get("options"), dict):
            raise BadRowError("neither 'text' nor 'full_question' with 'options'")
        question, key = field_text(row, "full_question"), str(row.get("correct_option"))
        texts = {str(k): field_text(row["options"], k) for k in row["options"]}
        options = {k: text for k, text in texts.items() if text}
        explanation = field_text(row, "full_answer")
    if list(options) != [str(i + 1) for i in range(len(options))]:
        raise BadRowError(f"options numbered {' '.join(options) or 'nothing'}")
    number = _number(key)
    if number is None or not 1 <= number <= len(options):
        raise BadRowError(f"answer key {key!r}, wanted 1 to {len(options)}")
    return Example(
        id=str(row.get("id") or where),
        source=source_name(source),
        lang=str(row.get("lang") or source.lang or "es"),
        question=clean_text(question),
        options=tuple(clean_text(text) for text in options.values()),
        answer=number - 1,
        explanation=clean_text(explanation),
        group=f"casimedicos-{row['id']}" if row.get("id") else "",
    )
