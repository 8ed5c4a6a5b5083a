"""From rows to examples: the published forms of MedMCQA, PeruMedQA and CasiMedicos, and pairs.

A row that cannot be an example is reported with its place and the reason; nothing is
repaired by guessing and nothing skipped in silence.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from pedsup.errors import BadFileError, UsageError
from pedsup.questions.multiple_choice import (
    BadRowError,
    Choice,
    clean_text,
    field_text,
    find_key_base,
    fold,
    read_medmcqa,
    read_perumedqa,
    require_choice,
    whole_number,
)
from pedsup_train.data.examples import BadRow, Example, ReadResult, place
from pedsup_train.data.rows import Row, read_rows, source_name
from pedsup_train.recipe.schema import SourceConfig

Fields = dict[str, object]
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
    result.bad.sort(key=place)  # lines that are not rows were found in an earlier pass
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
) -> list[tuple[str, Fields]]:
    kept: list[tuple[str, Fields]] = []
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


def _subject(row: Fields) -> str | None:
    for name in SUBJECT_FIELDS:
        if row.get(name):
            return str(row[name])
    text = row.get("text")
    if isinstance(text, str) and (match := re.match(r"QUESTION TYPE:\s*(.+)", text)):
        return match[1].strip()
    return None


def _parser(
    source: SourceConfig, rows: list[tuple[str, Fields]], result: ReadResult
) -> Callable[[str, Fields], Example]:
    if source.format == "medmcqa":
        first = _key_base(source, [row for _, row in rows], result)
        lang = source.lang or "en"
        return lambda where, row: _example(source, where, read_medmcqa(row, first), lang)
    parsers = {"pairs": _pair, "perumedqa": _perumedqa, "casimedicos": _casimedicos}
    parse = parsers[source.format]
    return lambda where, row: parse(source, where, row)


def _check(example: Example) -> None:
    if not example.options:
        if not example.question:
            raise BadRowError("the question is empty")
        if not example.explanation:
            raise BadRowError("the answer is empty")
        return
    require_choice(example.question, example.options, example.answer)


def _pair(source: SourceConfig, where: str, row: Fields) -> Example:
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


def _perumedqa(source: SourceConfig, where: str, row: Fields) -> Example:
    found = read_perumedqa(row)
    found = replace(found, question=re.sub(r"\s*\n\s*", " ", found.question))
    return _example(source, where, found, found.language or source.lang or "es")


def _example(source: SourceConfig, where: str, found: Choice, lang: str) -> Example:
    return Example(
        id=found.id or where,
        source=source_name(source),
        lang=lang,
        question=found.question,
        options=found.options,
        answer=found.answer,
        explanation=found.explanation,
    )


def _key_base(source: SourceConfig, rows: list[Fields], result: ReadResult) -> int:
    """The number that `cop` gives the first option."""
    given = None if source.answer_base == "auto" else int(source.answer_base)
    base = find_key_base(rows, given, where=result.name, option='answer_base = "{}"')
    if base.said:
        result.notes.append(
            f"answer key counts from {base.first}; {base.agree} of {base.said} explanations that"
            " name an option agree with it"
        )
    return base.first


# ---- CasiMedicos --------------------------------------------------------------------------
_CASE = re.compile(
    r"CLINICAL CASE:\s*(?P<case>.*?)\n(?P<options>1-\s.*?)\nCORRECT ANSWER:\s*(?P<key>\S+)\s*\n?"
    r"(?P<exp>.*)\Z",
    re.DOTALL,
)
_OPTION = re.compile(r"^(\d)-\s*(.*?)(?=\n\d-\s|\Z)", re.DOTALL | re.MULTILINE)


def _casimedicos(source: SourceConfig, where: str, row: Fields) -> Example:
    """The data set's text form, or its structured one (full_question, options, correct_option)."""
    if "text" in row:
        match = _CASE.search(clean_text(row["text"]))
        if match is None:
            raise BadRowError("not 'CLINICAL CASE: ... 1- ... CORRECT ANSWER: n ...'")
        question, key, explanation = match["case"], match["key"], match["exp"]
        options = dict(_OPTION.findall(match["options"]))
    else:
        given = row.get("options")
        if "full_question" not in row or not isinstance(given, dict):
            raise BadRowError("neither 'text' nor 'full_question' with 'options'")
        question, key = field_text(row, "full_question"), str(row.get("correct_option"))
        texts = {str(k): field_text(given, k) for k in given}
        options = {k: text for k, text in texts.items() if text}
        explanation = field_text(row, "full_answer")
    if list(options) != [str(i + 1) for i in range(len(options))]:
        raise BadRowError(f"options numbered {' '.join(options) or 'nothing'}")
    number = whole_number(key)
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
