"""A cut file against its full reference: quality, gate, questions, and bits per byte."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from pedsup_testing import cut_models, oracle
from pedsup_testing.cut_models import Pair, export_pair

from pedsup.errors import MismatchError
from pedsup.questions.texts import Text
from pedsup_bench.cli import cli
from pedsup_bench.quality.logits import LogitModel
from pedsup_bench.quality.measure import QualityPlan, measure
from pedsup_bench.quality.summary import summarize
from pedsup_bench.quality.vocabulary import VocabularyPlan, passages
from pedsup_bench.quality.vocabulary import measure as measure_cut
from pedsup_bench.report.texts import default_texts


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("cut")
    return export_pair(cut_models.gemma4(folder / "base"), folder, quant="Q8_0")


@pytest.mark.slow
def test_the_cut_costs_nothing_in_what_is_kept(pair: Pair) -> None:
    plan = QualityPlan(pair.cut, pair.full, default_texts(), n_ctx=64, n_chunks=1, n_threads=1)
    for figures in measure(plan).values():
        found = summarize(figures)
        assert found.flips == 0 and found.kld.max < 1e-12
        assert found.removed_mass is not None and 0.001 < found.removed_mass < 0.9


def test_removed_mass_and_bits_per_byte_by_hand(pair: Pair) -> None:
    text = default_texts()[1].content[:150]
    plan = VocabularyPlan(pair.cut, pair.full, (Text("es", text),), n_ctx=128, n_threads=1)
    found = measure_cut(plan)["es"]
    with LogitModel(pair.full, n_ctx=128, n_threads=1) as model:
        tokens = [2, *model.tokenize(text, add_special=False, parse_special=False)]
    logits = oracle.logits(pair.full, tokens[:-1]).astype(np.float64)
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    nats = -np.log(p[np.arange(len(tokens) - 1), tokens[1:]]).sum()
    kept = p[:, list(pair.vocabulary.base_ids)].sum(axis=-1)
    # llama.cpp's key and value cache is float16 there and float32 in the oracle.
    assert found.bits_per_byte_full == pytest.approx(
        nats / np.log(2) / len(text.encode()), rel=2e-2
    )
    assert found.removed_mass == pytest.approx(1 - kept.mean(), rel=5e-2)
    assert found.changed == 0 and found.tokens_cut == found.tokens_full
    # Without the removed tokens the others share their mass: never more bits on kept tokens.
    assert found.bits_per_byte_cut < found.bits_per_byte_full


def test_passages_hold_every_byte_once(pair: Pair) -> None:
    text = cut_models.FOREIGN * 3 + "\n\n" + default_texts()[0].content[:2000]
    with (
        LogitModel(pair.cut, n_ctx=64, n_threads=1) as cut,
        LogitModel(pair.full, n_ctx=64, n_threads=1) as full,
    ):
        parts = list(passages(text, (cut, full), 64))
        assert "".join(parts) == text and len(parts) > 5
        for part in parts:
            for model in (cut, full):
                assert len(model.tokenize(part, add_special=False, parse_special=False)) < 64


@pytest.mark.slow
def test_gate_and_questions_take_a_cut_file(pair: Pair, tmp_path: Path) -> None:
    out = tmp_path / "gate.json"
    run = CliRunner().invoke(
        cli, ["gate", str(pair.cut), "--reference", str(pair.full), "--out", str(out)]
    )
    assert run.exit_code == 0, run.output
    figures = json.loads(out.read_text("utf-8"))["figures"]["all"]
    assert figures["flips"] == 0 and figures["removed_mass"] > 0


def test_a_full_file_has_no_cut_to_measure(pair: Pair) -> None:
    with pytest.raises(MismatchError, match="was not cut"):
        measure_cut(VocabularyPlan(pair.full, pair.full, default_texts()))
