"""Duplicates, conflicting answers, and nothing shared between training and evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pedsup.errors import BadFileError, UsageError
from pedsup_train.data.prepare import Prepared, prepare
from pedsup_train.data.render import Rendered
from pedsup_train.recipe.schema import DataConfig, SourceConfig, read_recipe
from pedsup_train.run.plan import Data
from pedsup_train.run.report import preview


def row(question: str, answer: str = "B", **changes: Any) -> dict[str, Any]:
    options = {"A": "uno", "B": "dos", "C": "tres"}
    return {"question": question, "options": options, "answer": answer, **changes}


def source(path: Path, rows: list[dict[str, Any]], **changes: Any) -> SourceConfig:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return SourceConfig(format="perumedqa", path=str(path), **changes)


LONG = "Lactante de ocho meses con fiebre alta tos y dificultad para respirar desde hace dos días"


def test_duplicates_and_conflicts_are_removed_and_counted(tmp_path: Path) -> None:
    rows = [
        row("¿Uno?"),
        row("¿UNO ?"),  # the same but for case and punctuation
        row("¿Dos?", "A"),
        row("¿Dos?", "C"),  # the same question, another answer: neither can be trusted
        row("¿Uno?", options={"A": "x", "B": "y"}),  # the same question, other options: another one
        row("¿Tres?", options={"A": "dos", "B": "uno", "C": "tres"}, answer="A"),
        row("¿Tres?", options={"A": "uno", "B": "dos", "C": "tres"}, answer="B"),  # permuted
    ]
    data = prepare(DataConfig(sources=(source(tmp_path / "a.jsonl", rows),), eval_examples=0))
    assert [e.question for e in data.train] == ["¿Uno?", "¿Uno?", "¿Tres?"]
    assert (data.duplicates, data.conflicts) == (2, 2)


@pytest.mark.parametrize(
    "twin",
    [
        "El nin\u0303o con fiebre",
        "El ni\u00adño\u200b con fie\u2060bre",
        "EL\u00a0NIÑO, CON FIEBRE",
    ],
)
def test_what_only_looks_the_same_is_the_same(tmp_path: Path, twin: str) -> None:
    train = source(tmp_path / "a.jsonl", [row(twin), row("¿Otra?")])
    held = source(tmp_path / "b.jsonl", [row("¿El niño con fiebre?")])
    data = prepare(DataConfig(sources=(train,), eval_sources=(held,)))
    assert ([e.question for e in data.train], data.overlap) == (["¿Otra?"], 1)


def test_evaluation_source_is_kept_out_of_training(tmp_path: Path) -> None:
    train = [row("¿Uno?"), row("¿Dos?"), row(LONG + ", ¿qué hace?"), row("Otra " + LONG[20:])]
    held = [row("¿dos"), row(LONG + " ¿qué hace usted?")]
    data = prepare(
        DataConfig(
            sources=(source(tmp_path / "a.jsonl", train),),
            eval_sources=(source(tmp_path / "b.jsonl", held),),
        )
    )
    assert [e.question for e in data.train] == ["¿Uno?", "Otra " + LONG[20:]]
    assert len(data.evaluation) == 2
    assert (data.overlap, data.near_overlap) == (1, 1)


def test_limit_counts_what_training_gets(tmp_path: Path) -> None:
    """The limit comes after duplicates and held-out rows are gone."""
    rows = [row(f"¿Número {i}?") for i in range(30)] * 2
    data = prepare(
        DataConfig(sources=(source(tmp_path / "a.jsonl", rows, limit=20),), eval_examples=5)
    )
    assert (len(data.train), len(data.evaluation), data.duplicates) == (20, 5, 30)
    assert not {e.question for e in data.train} & {e.question for e in data.evaluation}


def test_the_split_is_stable_when_data_is_added(tmp_path: Path) -> None:
    rows = [row(f"¿Número {i}?") for i in range(40)]
    small = prepare(DataConfig(sources=(source(tmp_path / "a.jsonl", rows[:20]),), eval_examples=6))
    large = prepare(DataConfig(sources=(source(tmp_path / "a.jsonl", rows),), eval_examples=12))
    held = {e.question for e in large.evaluation}
    # What was held out stays the first to be held out, except for what newcomers displace.
    assert len({e.question for e in small.evaluation} & held) >= 4
    again = prepare(
        DataConfig(sources=(source(tmp_path / "a.jsonl", rows[::-1]),), eval_examples=12)
    )
    assert {e.question for e in again.evaluation} == held


def test_translations_stay_on_one_side() -> None:
    data = prepare(read_recipe("demo").data)
    sides = [{e.group for e in part if e.group} for part in (data.train, data.evaluation)]
    assert sides[0] and not sides[0] & sides[1]
    assert len(data.train) + len(data.evaluation) == 100
    assert {e.lang for e in data.evaluation} == {"en", "es"}


def test_bad_rows_refuse_the_run_until_allowed(tmp_path: Path) -> None:
    rows = [row("¿Uno?"), row("¿Dos?", "Z"), row("¿Tres?", "")]
    config = DataConfig(sources=(source(tmp_path / "a.jsonl", rows),), eval_examples=0)
    with pytest.raises(BadFileError, match="2 bad rows") as error:
        prepare(config)
    lines = str(error.value).splitlines()
    assert [n for n, line in enumerate(lines) if "a.jsonl:" in line] == [1, 2]
    assert "data.max_bad_rows=2" in lines[-1] and "\\n" not in str(error.value)
    allowed = DataConfig(sources=config.sources, eval_examples=0, max_bad_rows=2)
    assert len(prepare(allowed).train) == 1


def test_nothing_left(tmp_path: Path) -> None:
    config = DataConfig(sources=(source(tmp_path / "a.jsonl", [row("¿Uno?")]),), eval_examples=1)
    with pytest.raises(UsageError, match="nothing is left"):
        prepare(config)
    with pytest.raises(UsageError, match="names no data"):
        prepare(DataConfig())


def test_digest_follows_content(tmp_path: Path) -> None:
    config = DataConfig(sources=(source(tmp_path / "a.jsonl", [row("¿Uno?")]),), eval_examples=0)
    first = prepare(config).digest
    assert prepare(config).digest == first
    source(tmp_path / "a.jsonl", [row("¿Uno?", "C")])
    assert prepare(config).digest != first


def test_the_preview_takes_each_source_in_turn() -> None:
    train = [Rendered(f"P{i}", f"A{i}", (1, 2), 1, "a.jsonl") for i in range(9)]
    train.append(Rendered("P9", "A9", (1, 2), 1, "b.csv"))
    data = Data(Prepared([], []), tuple(train), (), ())
    shown = [line for line in preview(data, 3).splitlines() if "prompt" in line]
    assert [line.split(", ")[1].partition(":")[0] for line in shown] == [
        "a.jsonl",
        "b.csv",
        "a.jsonl",
    ]
    assert preview(data, 99).count("---- example") == 10
