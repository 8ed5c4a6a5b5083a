"""Figures of toy distributions against hand calculation; the 16-bit file of log-probabilities."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pedsup.errors import BadFileError, MismatchError
from pedsup.questions.texts import windows
from pedsup_bench.quality import reference as ref
from pedsup_bench.quality.divergence import (
    TokenFigures,
    log_softmax,
    open_windows,
    token_figures,
    window_row,
)
from pedsup_bench.quality.summary import summarize
from pedsup_bench.report.texts import default_texts


def test_kl_of_a_toy_by_hand() -> None:
    p, q = [0.5, 0.25, 0.25], [0.25, 0.5, 0.25]
    figures = token_figures(
        np.log([p]), np.log(np.array([q], dtype=np.float32)), np.array([0], dtype=np.int64)
    )
    by_hand = 0.5 * log(2) + 0.25 * log(0.5)
    assert figures.kld[0] == pytest.approx(by_hand, rel=1e-6)
    assert figures.nll[0] == pytest.approx(log(4), rel=1e-6)
    assert figures.nll_ref[0] == pytest.approx(log(2), rel=1e-6)
    assert figures.p_diff[0] == pytest.approx(-0.25, rel=1e-6)
    assert figures.same[0] == 0.0


def test_logits_may_be_shifted_and_large() -> None:
    row = np.array([[1000.0, 1001.0, 999.0]], dtype=np.float32)
    assert np.exp(log_softmax(row)).sum() == pytest.approx(1)
    figures = token_figures(log_softmax(row), row - 500, np.array([1]))
    assert figures.kld[0] < 1e-12
    assert figures.same[0] == 1.0


def test_probability_below_the_floor_does_not_count() -> None:
    log_p = np.array([[log(0.9), log(0.1), -20.0]])
    logits = np.array([[log(0.9), log(0.1), -40.0]], dtype=np.float32)
    whole = token_figures(log_p, logits, np.array([0]))
    cut = token_figures(log_p, logits, np.array([2]), floor=-16.0)
    assert whole.kld[0] - cut.kld[0] == pytest.approx(20 * exp(-20), rel=1e-3)
    assert cut.nll_ref[0] == 20.0


def figures_of(kld: list[float], same: list[float]) -> TokenFigures:
    zeros = np.zeros(len(kld))
    flat = [zeros + log(8), zeros + log(4), zeros + 0.1, np.array(same), zeros]
    return TokenFigures(np.array(kld), *flat)


def test_summary_by_hand() -> None:
    s = summarize(figures_of([0.0, 0.1, 0.2, 0.3], [1, 1, 0, 1]))
    assert s.kld.mean == pytest.approx(0.15)
    assert s.kld.max == 0.3
    assert s.kld.p50 == pytest.approx(0.15)
    # population deviation 0.1118 over sqrt(n - 1), as llama.cpp has it
    assert s.kld.mean_error == pytest.approx(0.1118034 / 3**0.5, rel=1e-5)
    assert (s.flips, s.same_top) == (1, 0.75)
    assert s.ppl == pytest.approx(8)
    assert s.ppl_reference == pytest.approx(4)
    assert s.ppl_ratio == pytest.approx(2)
    assert s.p_diff_rms == pytest.approx(0.1)


def test_windows_start_with_bos_and_drop_the_rest() -> None:
    assert windows(range(10, 21), 4, bos=2) == [[2, 11, 12, 13], [2, 15, 16, 17]]
    assert windows([5, 6, 7], 3, bos=None) == [[5, 6, 7]]
    assert windows([5, 6], 3, bos=2) == []


@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(1, 3), st.integers(2, 40)),
        elements=st.floats(-60, 60, width=32),
    )
)  # fmt: skip
def test_encoded_rows_come_back_within_half_a_step(logits) -> None:
    exact = log_softmax(logits)
    decoded = ref.decode_rows(ref.encode_rows(logits), logits.shape[1])
    top = exact.max(axis=-1, keepdims=True)
    near = np.maximum(exact, top - 16.0)
    assert np.abs(decoded - near).max() <= 16 / 65535 * 0.51 + 1e-4


def test_a_journal_of_another_version_is_not_gone_on_with(tmp_path, monkeypatch) -> None:
    first = open_windows({"model": "a"}, tmp_path).path
    assert open_windows({"model": "a"}, tmp_path).path == first
    monkeypatch.setattr("pedsup_bench.report.journal.__version__", "99")
    assert open_windows({"model": "a"}, tmp_path).path != first


def test_journal_continues_and_drops_a_torn_line(tmp_path) -> None:
    journal = open_windows({"model": "a"}, tmp_path)
    first = figures_of([0.1, 0.2], [1, 0])
    journal.append(window_row("en", 0, first))
    journal.append(window_row("en", 1, first))
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-20])
    done = dict(open_windows({"model": "a"}, tmp_path).read())
    assert list(done) == [("en", 0)]
    assert done["en", 0].kld.tolist() == [0.1, 0.2]
    journal.append(window_row("en", 1, first))
    assert journal.path.read_bytes() == whole
    assert open_windows({"model": "b"}, tmp_path).read() == []


def test_a_file_of_reference_logits_is_checked(tmp_path) -> None:
    path = tmp_path / "x.kld"
    ref.start_file(path, list(range(16)), 8, 5)
    file = ref.LogitFile(path)
    assert (file.n_ctx, file.n_vocab, file.n_chunk, file.complete_chunks) == (8, 5, 2, 0)
    file.require(list(range(16)), 8, 5)
    with pytest.raises(MismatchError):
        file.require(list(range(1, 17)), 8, 5)
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(BadFileError):
        ref.LogitFile(path)
    path.write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(BadFileError, match="no reference logits"):
        ref.LogitFile(path)


def test_the_shipped_texts_are_whole() -> None:
    texts = {t.name: t for t in default_texts()}
    assert set(texts) == {"en", "es"}
    assert all(len(t.content.split()) > 2000 for t in texts.values())
    assert "rehidratación" in texts["es"].content
