"""Readers: the published forms, their answer keys, and every bad row reported by its place."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest

from pedsup.errors import BadFileError, HubError, UsageError
from pedsup.questions.multiple_choice import clean_text, fold, said_answer
from pedsup_train.data.examples import Example
from pedsup_train.data.readers import limit, read_source
from pedsup_train.recipe.schema import SourceConfig

SHARED = Path(os.environ.get("PEDSUP_SHARED") or Path(__file__).parents[3] / "shared") / "data"


def medmcqa(i: int, cop: object = 1, **changes: Any) -> dict[str, Any]:
    row = {
        "question": f"Question {i}?", "exp": None, "cop": cop, "opa": "one", "opb": "two",
        "opc": "three", "opd": "four", "subject_name": "Pediatrics", "id": f"m{i}",
    }  # fmt: skip
    return {**row, **changes}


def write(path: Path, rows: list[dict[str, Any]]) -> SourceConfig:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return SourceConfig(format="medmcqa", path=str(path))


def test_medmcqa_one_based(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [medmcqa(i, cop=i) for i in (1, 2, 3, 4)])
    result = read_source(source, seed=0)
    assert [e.options[e.answer] for e in result.examples] == ["one", "two", "three", "four"]
    assert result.bad == [] and result.digest.startswith("sha256:")


def test_medmcqa_zero_based_as_on_the_hub(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [medmcqa(i, cop=i) for i in (0, 1, 2, 3)])
    result = read_source(source, seed=0)
    assert [e.options[e.answer] for e in result.examples] == ["one", "two", "three", "four"]


def test_medmcqa_open_base_is_refused_until_said(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [medmcqa(1, cop=1), medmcqa(2, cop=2)])
    with pytest.raises(UsageError, match="from 0 or 1 is open"):
        read_source(source, seed=0)
    said = SourceConfig(format="medmcqa", path=source.path, answer_base="1")
    assert [e.answer for e in read_source(said, seed=0).examples] == [0, 1]


def test_medmcqa_shifted_key_is_found_by_the_explanations(tmp_path: Path) -> None:
    rows = [medmcqa(i, cop=1 + i % 4, exp=f"Ans. is '{'abcd'[i % 4]}' i.e., so") for i in range(12)]
    path = tmp_path / "a.jsonl"
    assert "12 of 12" in read_source(write(path, rows), seed=0).notes[0]
    wrong = SourceConfig(format="medmcqa", path=str(path), answer_base="0")
    with pytest.raises(BadFileError, match="only 0 of 12") as error:
        read_source(wrong, seed=0)
    assert 'answer_base = "1"' in str(error.value)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Ans. is 'c' i.e., Cyanosis", 2),
        ("Answer- B. A baby born", 1),
        ("Ans-a. The oncotic pressure", 0),
        ("Ans. D) x", 3),
        ("(Answer is option c) see Nelson", 2),
        ("Ans: a child of two", 0),  # ambiguous prose; a minority that the vote absorbs
        ("Answers vary", None),
        ("Nelson states that", None),
        ("", None),
    ],
)
def test_said_answer(text: str, answer: int | None) -> None:
    assert said_answer(text) == answer


def test_bad_rows_are_reported_by_line(tmp_path: Path) -> None:
    good = [json.dumps(medmcqa(i, cop=4)) for i in range(3)]
    lines = [
        good[0],
        "{not json",
        json.dumps(medmcqa(5, opb="")),
        json.dumps(medmcqa(6, opb="ONE ")),
        json.dumps(medmcqa(7, cop=5)),
        json.dumps(medmcqa(8, cop=None)),
        json.dumps(medmcqa(9, question="  ")),
        "[1, 2]",
        "",
        good[1],
    ]
    path = tmp_path / "a.jsonl"
    path.write_bytes("\n".join(lines).encode() + b"\n\xe9\xff\n")
    result = read_source(SourceConfig(format="medmcqa", path=str(path)), seed=0)
    assert len(result.examples) == 2 and result.rows == 10
    found = {bad.where: bad.reason for bad in result.bad}
    assert found == {
        "a.jsonl:2": "not JSON: Expecting property name enclosed in double quotes",
        "a.jsonl:3": "option B is empty",
        "a.jsonl:4": "two options are the same",
        "a.jsonl:5": "answer key 5, wanted 1 to 4",
        "a.jsonl:6": "no 'cop'",
        "a.jsonl:7": "the question is empty",
        "a.jsonl:8": "not an object with named fields",
        "a.jsonl:11": "not UTF-8",
    }


def test_what_is_no_text_is_not_trained_on_in_python_s_spelling(tmp_path: Path) -> None:
    lines = [
        '{"question": ["a"], "answer": "b"}',
        "no",
        '{"question": "a", "answer": {"b": 1}}',
        '{"question": true, "answer": "b"}',
        '{"question": "a", "answer": NaN}',
        '{"question": "How many kg?", "answer": 5}',
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines))
    result = read_source(SourceConfig(path=str(path)), seed=0)
    assert [(e.question, e.explanation) for e in result.examples] == [("How many kg?", "5")]
    assert [(bad.where, bad.reason) for bad in result.bad] == [
        ("a.jsonl:1", "'question' is a list, no text"),
        ("a.jsonl:2", "not JSON: Expecting value"),
        ("a.jsonl:3", "'answer' is a dict, no text"),
        ("a.jsonl:4", "'question' is a bool, no text"),
        ("a.jsonl:5", "the answer is empty"),
    ]


def test_subject_filter_ignores_case_and_accents(tmp_path: Path) -> None:
    rows = [medmcqa(1, cop=4, subject_name="PEDIATRÍA"), medmcqa(2, subject_name="Surgery")]
    path = tmp_path / "a.jsonl"
    write(path, rows)
    source = SourceConfig(format="medmcqa", path=str(path), subject="Pediatria")
    result = read_source(source, seed=0)
    assert [e.id for e in result.examples] == ["m1"] and result.other_subject == 1


def test_subject_that_nothing_has_lists_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write(path, [medmcqa(1, cop=4), medmcqa(2, subject_name="Surgery")])
    with pytest.raises(UsageError) as error:
        read_source(SourceConfig(format="medmcqa", path=str(path), subject="Pediatric"), seed=0)
    assert "Pediatrics" in str(error.value) and "Surgery" in str(error.value)


def peru(i: int, **changes: Any) -> dict[str, Any]:
    options = {"A": "uno", "B": "dos", "C": "tres", "D": "cuatro", "E": "cinco"}
    row = {"id": f"p{i}", "question": f"¿Pregunta\n{i}?", "options": options, "answer": "E"}
    return {**row, **changes}


def test_perumedqa_object_and_csv_agree(tmp_path: Path) -> None:
    rows = [peru(1), peru(2, answer="a")]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with (tmp_path / "p.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "Pregunta", *"ABCDE", "Respuesta"])
        writer.writeheader()
        for row in rows:
            flat = {"id": row["id"], "Pregunta": row["question"], "Respuesta": row["answer"]}
            writer.writerow({**flat, **row["options"]})
    read = [
        read_source(SourceConfig(format="perumedqa", path=str(tmp_path / name)), seed=0).examples
        for name in ("p.jsonl", "p.csv")
    ]
    facts = [[(e.question, e.options, e.answer, e.lang) for e in part] for part in read]
    assert facts[0] == facts[1]
    assert facts[0][0] == ("¿Pregunta 1?", ("uno", "dos", "tres", "cuatro", "cinco"), 4, "es")
    assert facts[0][1][2] == 0


def test_perumedqa_bad_keys(tmp_path: Path) -> None:
    four = {"A": "1", "B": "2", "C": "3", "D": "4"}
    rows = [
        peru(0),
        peru(1, answer="F"),
        peru(2, answer="A y B"),
        peru(3, options=four, answer="E"),
        peru(4, options={"A": "1", "C": "3"}),
        peru(5, options=four, answer="D"),
    ]
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    result = read_source(SourceConfig(format="perumedqa", path=str(path)), seed=0)
    assert [e.id for e in result.examples] == ["p0", "p5"]
    assert [bad.where for bad in result.bad] == [f"p.jsonl:{i}" for i in (2, 3, 4, 5)]


CASE = (
    "QUESTION TYPE: PEDIATRICS\nCLINICAL CASE:\nNiño de 2 años.\n¿Diagnóstico?\n1- Uno.\n"
    "2- Dos\ncon dos líneas.\n3- Tres.\nCORRECT ANSWER: 2\nPorque sí.\n1- no es."
)


def test_casimedicos_text_and_structured_agree(tmp_path: Path) -> None:
    structured = {
        "id": 7, "type": "PEDIATRICS", "full_question": "Niño de 2 años.\n¿Diagnóstico?",
        "options": {"1": "Uno.", "2": "Dos\ncon dos líneas.", "3": "Tres.", "4": None},
        "correct_option": 2, "full_answer": "Porque sí.\n1- no es.",
    }  # fmt: skip
    read = []
    for row in ({"text": CASE}, structured):
        path = tmp_path / "c.jsonl"
        path.write_text(json.dumps(row), encoding="utf-8")
        source = SourceConfig(format="casimedicos", path=str(path), subject="pediatrics")
        (example,) = read_source(source, seed=0).examples
        read.append((example.question, example.options, example.answer, example.explanation))
    assert read[0] == read[1]
    assert read[0][1:3] == (("Uno.", "Dos\ncon dos líneas.", "Tres."), 1)


def test_parquet_and_json_and_csv_of_the_same_rows(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [medmcqa(i, cop=1 + i % 4, exp="why") for i in range(8)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    with (tmp_path / "a.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    write(tmp_path / "a.jsonl", rows)
    read = []
    for suffix in ("jsonl", "parquet", "json", "csv"):
        source = SourceConfig(format="medmcqa", path=str(tmp_path / f"a.{suffix}"))
        read.append(
            [(e.id, e.question, e.options, e.answer) for e in read_source(source, seed=0).examples]
        )
    assert read[0] == read[1] == read[2] == read[3] and len(read[0]) == 8


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"PAR1 no", "not a parquet file"),
        ("a.json", b"{}", "not a list of rows"),
        ("a.json", b"[", "not JSON"),
        ("a.jsonl", b'{"x": 1}\n', "none of 1 rows"),
    ],
)
def test_files_that_are_not_what_they_say(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    source = SourceConfig(format="pairs", path=str(tmp_path / name))
    with pytest.raises(BadFileError, match=message):
        read_source(source, seed=0)


def test_unknown_file_type_and_missing_file(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"")
    with pytest.raises(UsageError, match=r"type '\.xlsx'"):
        read_source(SourceConfig(path=str(tmp_path / "a.xlsx")), seed=0)
    with pytest.raises(UsageError, match="no such data file"):
        read_source(SourceConfig(path=str(tmp_path / "b.jsonl")), seed=0)


def test_hub_out_of_reach_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError) as error:
        read_source(SourceConfig(format="medmcqa", hub="someone/something"), seed=0)
    assert "path=" in str(error.value) and "someone/something" in str(error.value)


def test_clean_text_is_nfc_and_without_control_characters() -> None:
    assert clean_text("  nin\u0303o\r\na\x00b\tc  ") == "niño\na" + "b\tc"
    assert clean_text(None) == "" and fold("Pediatría ") == "pediatria"


def test_limit_does_not_depend_on_the_order(tmp_path: Path) -> None:
    rows = [medmcqa(i, cop=4) for i in range(50)]

    def chosen(rows: list[dict[str, Any]], seed: int) -> set[str]:
        result = read_source(write(tmp_path / "a.jsonl", rows), seed=0)
        limit(result, 10, seed=seed)
        assert result.over_limit == 40 and len(result.examples) == 10
        return {example.id for example in result.examples}

    assert chosen(rows, 3) == chosen(rows[::-1], 3) != chosen(rows, 4)


def _shared(name: str) -> str:
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"{path} is not here: set PEDSUP_SHARED to a folder with data/{name}")
    return str(path)


def test_real_medmcqa() -> None:
    path = _shared("medmcqa_pediatrics_dev_a.jsonl")
    result = read_source(SourceConfig(format="medmcqa", path=path, subject="Pediatrics"), seed=0)
    assert result.rows == 117 and len(result.examples) + len(result.bad) == 117
    assert len(result.bad) <= 2
    agree, total = map(int, result.notes[0].split("; ")[1].replace("of ", "").split()[:2])
    assert total > 10 and agree > 0.9 * total, result.notes


def test_real_perumedqa() -> None:
    path = _shared("perumedqa_pediatria_2018_2020.jsonl")
    result = read_source(SourceConfig(format="perumedqa", path=path), seed=0)
    assert result.rows == 300 and len(result.examples) >= 295
    assert all(isinstance(e, Example) and e.lang == "es" for e in result.examples)


@pytest.mark.parametrize("lang", ["es", "en"])
def test_real_casimedicos(lang: str) -> None:
    path = _shared(f"casimedicos_pediatrics_{lang}.jsonl")
    result = read_source(SourceConfig(format="casimedicos", path=path, lang=lang), seed=0)
    assert result.rows == 37 and len(result.examples) >= 36, result.bad
    assert all(e.lang == lang and e.explanation for e in result.examples)
