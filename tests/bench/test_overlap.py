"""A file is not judged on what it was calibrated on: sketches of texts, and who looks at them."""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pedsup.errors import MismatchError
from pedsup.questions.texts import SHINGLE, SKETCH, passages, shared_with_sketch, shingles, sketch
from pedsup_bench.gate.run import GatePlan, run_gate
from pedsup_bench.report import overlap
from pedsup_bench.report.overlap import Calibrating
from pedsup_bench.report.texts import default_texts

WORDS = [f"word{i}" for i in range(4000)]


def words(n: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=n))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.integers(0, 2**32))
def test_a_short_text_s_sketch_holds_every_run(n: int, seed: int) -> None:
    text = words(n, seed)
    assert shared_with_sketch(f"Before. {text.upper()}!", sketch(text)) == len(shingles(text))
    assert len(shingles(text)) == max(0, n - SHINGLE + 1)
    assert shared_with_sketch(words(300, seed + 1), sketch(text)) == 0


def test_a_long_text_s_sketch_finds_a_passage_of_it() -> None:
    text = words(60_000, 1)
    kept = sketch(text)
    assert len(kept) < 11 * SKETCH  # base64 of 8 bytes each
    passage = " ".join(text.split()[20_000:21_000])
    expected = 1000 * SKETCH / 60_000
    assert 0.4 * expected < shared_with_sketch(passage, kept) < 2.5 * expected


def test_examples_shorter_than_a_run_are_compared_whole() -> None:
    """Shuffled, no run of words crosses from one to the next: they went unnoticed."""
    examples = [words(8 + n % 4, n) for n in range(60)]
    stem = "Which of the following is the most likely cause?"
    used = sketch("\n".join([stem, *examples]))
    judged = [*examples[40:20:-1], *(words(8, 1000 + n) for n in range(30))]
    assert shared_with_sketch("\n".join(judged), used) == 20
    # Stems that every exam has are no overlap, nor are two lines.
    others = [words(9, 2000 + n) for n in range(60)]
    assert shared_with_sketch("\n".join([*others, stem, *judged[:1]]), used) == 0
    assert shared_with_sketch("\n".join([*others, *judged[::4]]), used) == 0, "under a tenth"
    # Of a long text the sketch is a sample: of its short lines too.
    many = [words(8, 5000 + n) for n in range(3 * SKETCH)]
    sample = sketch("\n".join(many))
    found = shared_with_sketch("\n".join([*many[:1800:2], *others]), sample)
    whole = len(passages("\n".join(many)))
    assert 0.5 < found / (900 * SKETCH / whole) < 1.6
    assert shared_with_sketch("\n".join(words(8, 90_000 + n) for n in range(900)), sample) == 0


@pytest.mark.parametrize("broken", ["", "not base64!", "AAAA", "é"])
def test_what_is_no_sketch_finds_nothing(broken: str) -> None:
    assert shared_with_sketch(words(100, 2), broken) == 0


def test_manifests_of_any_form_are_read() -> None:
    good = [{"name": "a.txt", "sketch": "x"}, {"sha256": "y"}, 3]
    assert overlap.sketches_in(good) == (Calibrating("a.txt", "x"), Calibrating("None", ""))
    for other in (None, "text", {"a": 1}, 5):
        assert overlap.sketches_in(other) == ()


def test_the_gate_refuses_its_own_text(tiny_quantized: dict[str, Path], tmp_path: Path) -> None:
    judged = default_texts()[0].content
    leaked = Calibrating("train.jsonl", sketch("Some words before. " + judged[500:1500]))
    model = tiny_quantized["llama"]
    with pytest.raises(MismatchError, match="judged on text that it was calibrated on") as error:
        run_gate(GatePlan(model, model, calibrated_on=(leaked,)))
    assert "train.jsonl" in str(error.value) and "'en'" in str(error.value)
    examples = tmp_path / "held-out.jsonl"
    row = {"question": words(20, 3), "answer": words(20, 4)}
    examples.write_text(json.dumps(row), encoding="utf-8")
    used = Calibrating("train.jsonl", sketch(f"{row['question']} {row['answer']}"))
    with pytest.raises(MismatchError, match=r"held-out\.jsonl"):
        run_gate(GatePlan(model, model, examples=examples, calibrated_on=(used,)))


def test_figures_on_calibration_text_come_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    text = words(200, 5)
    used = (Calibrating("notes.txt", sketch(text)),)
    monkeypatch.setattr(overlap, "sketches_of", lambda _model: used)
    (said,) = overlap.warn(tmp_path / "m.gguf", {"es": text, "en": words(200, 6)})
    assert said.startswith("es and the calibration text 'notes.txt' share")
    assert "flatter" in capfd.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        lambda t: unicodedata.normalize("NFD", t),
        lambda t: t.replace("ñ", "\u00adñ"),
        lambda t: "\u200b".join(t),
        lambda t: t.replace(" ", "\u00a0,\n"),
        lambda t: "".join(chr(ord(c) + 0xFEE0) if "a" <= c <= "z" else c for c in t),
        str.upper,
    ],
)
def test_a_text_that_only_looks_the_same_is_the_same(change: Callable[[str], str]) -> None:
    text = "El niño de tres años llegó con fiebre, tos y dificultad para respirar desde ayer"
    assert len(shingles(text)) == 4
    assert change(text) != text
    assert shared_with_sketch(change(text), sketch(text)) == 4
