"""One reader of questions for training and evaluation: whatever a table program made of a key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedsup.errors import BadFileError, UsageError
from pedsup.questions.multiple_choice import find_key_base, whole_number
from pedsup_bench.mcqa.questions import read_questions
from pedsup_train.data.readers import read_source
from pedsup_train.recipe.schema import SourceConfig

BOM = b"\xef\xbb\xbf"
KINDS: dict[str, Any] = {
    "int": int, "float": float, "text": str, "float text": lambda n: f"{n}.0",
    "padded text": lambda n: f" {n} ",
}  # fmt: skip


def rows(kind: Any, first: int = 1) -> list[dict[str, Any]]:
    return [
        {"question": f"Which sign {i}?", "opa": "a x", "opb": "b x", "opc": "c x", "opd": "d x",
         "cop": kind(i % 4 + first), "id": i}
        for i in range(8)
    ]  # fmt: skip


def both(path: Path, form: Any = "medmcqa") -> tuple[list[int], list[int]]:
    """The keys as training and as evaluation read them."""
    source = SourceConfig(format=form, path=str(path))
    asked = read_questions(path).questions
    learned = read_source(source, seed=0).examples
    assert [question.id for question in asked] == [example.id for example in learned]
    return [q.answer for q in asked], [e.answer for e in learned]


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", BOM])
def test_a_key_means_the_same_in_every_spelling(
    kind: str, first: int, end: str, mark: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "q.jsonl"
    lines = map(json.dumps, rows(KINDS[kind], first))
    path.write_bytes(mark + end.join(lines).encode())
    wanted = [i % 4 for i in range(8)]
    assert both(path) == (wanted, wanted)


@pytest.mark.parametrize("mark", [b"", BOM])
def test_json_and_csv_are_read_alike(mark: bytes, tmp_path: Path) -> None:
    table = rows(int)
    whole, lines = tmp_path / "q.json", [",".join(table[0])]
    whole.write_bytes(mark + json.dumps(table).encode())
    lines += [",".join(map(str, row.values())) for row in table]
    columns = tmp_path / "q.csv"
    columns.write_bytes(mark + "\r\n".join(lines).encode())
    wanted = [i % 4 for i in range(8)]
    assert both(whole) == both(columns) == (wanted, wanted)


def test_perumedqa_is_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    options = {"a": "uno", "B": "dos", "C ": 3}
    peru = [
        {"question": f"¿Cuál {i}?", "options": options, "answer": key, "id": str(i)}
        for i, key in enumerate(["b", " C", "A"])
    ]
    path.write_bytes(BOM + "\r\n".join(map(json.dumps, peru)).encode())
    assert both(path, "perumedqa") == ([1, 2, 0], [1, 2, 0])


@pytest.mark.parametrize(
    "values", [[1, 2, 3], ["1", "2", "3"], [1.0, 2.0], [0, 4], [True, "x"], []]
)
def test_a_key_that_is_open_is_asked_for_and_never_guessed(
    values: list[object], tmp_path: Path
) -> None:
    path = tmp_path / "q.jsonl"
    table = [{**row, "cop": value} for row, value in zip(rows(int), values, strict=False)]
    path.write_text("\n".join(map(json.dumps, table)) or json.dumps({"opa": "x"}))
    with pytest.raises(UsageError, match="open") as asked:
        read_questions(path)
    assert "--answer-base 1" in str(asked.value) and "--answer-base 0" in str(asked.value)
    with pytest.raises(UsageError, match="open") as asked:
        read_source(SourceConfig(format="medmcqa", path=str(path)), seed=0)
    assert 'answer_base = "1"' in str(asked.value)


def test_explanations_that_contradict_the_key_refuse_the_evaluation_too(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    table = [
        {**row, "exp": f"Ans. is '{'abcd'[i % 4]}' i.e., so"} for i, row in enumerate(rows(str))
    ]
    again = [
        {**row, "question": f"{row['question']} Again", "id": f"{row['id']}+"} for row in table
    ]
    path.write_text("\n".join(json.dumps(row) for row in table + again))
    assert len(read_questions(path).questions) == 16
    with pytest.raises(BadFileError, match="only 0 of 16") as error:
        read_questions(path, answer_base=0)
    assert "--answer-base 1" in str(error.value)


@given(st.integers(-999, 999))
def test_whole_numbers_in_all_their_spellings(n: int) -> None:
    spellings = [n, float(n), str(n), f"{n}.0", f" {n}.", json.loads(json.dumps(float(n)))]
    assert [whole_number(value) for value in spellings] == [n] * len(spellings)


@pytest.mark.parametrize(
    "value",
    [True, False, None, "a", "", 1.5, "1.5", float("nan"), float("inf"), [1], {}, "1e2", "٣"],
)
def test_what_is_no_whole_number_is_none(value: object) -> None:
    assert whole_number(value) is None


def test_the_base_is_what_was_given() -> None:
    assert find_key_base([{"cop": 2}], 1, where="x", option="{}").first == 1
