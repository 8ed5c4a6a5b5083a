"""The figures of `pedsup-bench quality` against llama.cpp's own llama-perplexity."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
from pathlib import Path

import pytest
from pedsup_testing import faults
from pedsup_testing.slowly import slow_but

from pedsup.files.journal import LineJournal
from pedsup_bench.quality.reference import LogitFile
from pedsup_bench.report import forecast
from pedsup_bench.report.texts import default_texts

N_CTX, CHUNKS = 128, 4
LAST_LINE = re.compile(r"^Same top p: +[0-9.]+ ± +[0-9.]+ %", re.MULTILINE)
"""Its messages come in order: with this one all are there."""


@pytest.fixture(scope="session")
def flush_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Path(faults.__file__).with_name("flushlog.c")
    return faults.build(tmp_path_factory.mktemp("flushlog"), source)


@pytest.fixture(scope="session")
def perplexity(native_tool, flush_log):  # type: ignore[no-untyped-def]
    """A function that runs llama-perplexity and gives all it says."""
    program = native_tool("llama-perplexity")

    def run(model: Path, *arguments: object) -> str:
        done = subprocess.run(
            [program, "-m", model, "-t", "1", "-c", str(N_CTX), "-b", str(N_CTX), "-fa", "off",
             "--no-repack", *map(str, arguments)],
            env={**os.environ, "LD_PRELOAD": str(flush_log)},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert done.returncode == 0, said[-2000:]
        assert "--kl-divergence" not in arguments or LAST_LINE.search(said), said
        return said

    return run


def number(text: str, label: str) -> float:
    found = re.search(rf"{label}\s*:\s*([-0-9.]+)", text)
    assert found, label
    return float(found.group(1))


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "es.txt"
    path.write_text(default_texts()[1].content + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=slow_but(["llama"], ["llama", "gemma4"]))
def oracle(request, tiny_ggufs, tiny_quantized, perplexity, text_file):  # type: ignore[no-untyped-def]
    reference, model = tiny_ggufs[request.param], tiny_quantized[request.param]
    base = reference.with_name("oracle.kld")
    perplexity(reference, "-f", text_file, "--chunks", CHUNKS,
               "--kl-divergence-base", base)  # fmt: skip
    said = perplexity(model, "--kl-divergence", "--kl-divergence-base", base)
    return reference, model, base, said


def figures(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, float]]:
    return json.loads(done.stdout)["figures"]


def check(mine: dict, said: str, rel: float) -> None:  # type: ignore[type-arg]
    pairs = [
        (mine["kld"]["mean"], "Mean    KLD"),
        (mine["kld"]["p99"], "99.0%   KLD"),
        (mine["kld"]["max"], "Maximum KLD"),
        (mine["ppl"], r"Mean PPL\(Q\)"),
        (mine["ppl_reference"], r"Mean PPL\(base\)"),
        (mine["ppl_ratio"], r"Mean PPL\(Q\)/PPL\(base\)"),
        (100 * mine["same_top"], "Same top p"),
        (100 * mine["p_diff_rms"], r"RMS Δp"),
    ]
    for ours, label in pairs:
        # What it prints ends at some digit: half a unit of the sixth decimal of KLD.
        assert ours == pytest.approx(
            number(said, label), rel=rel, abs=6e-4 if "p" in label else 2e-6
        ), label


@pytest.mark.slow
def test_equal_to_llama_perplexity(oracle, bench, native_libraries, text_file, tmp_path) -> None:
    """Both models run by us: three digits."""
    reference, model, _, said = oracle
    done = bench(
        "quality", model, "--reference", reference, "--text", f"es={text_file}", "--ctx", N_CTX,
        "--chunks", CHUNKS, "--threads", 1, "--json", **native_libraries,
    )  # fmt: skip
    check(figures(done)["es"], said, rel=1e-3)


def test_its_file_of_logits_is_read(oracle, bench, native_libraries, text_file, tmp_path) -> None:
    """llama-perplexity's own file as the reference: five digits, no reference model needed."""
    _, model, base, said = oracle
    (tmp_path / "es.kld").write_bytes(base.read_bytes())
    done = bench(
        "quality", model, "--logits", tmp_path, "--text", f"es={text_file}", "--ctx", N_CTX,
        "--chunks", CHUNKS, "--threads", 1, "--json", **native_libraries,
    )  # fmt: skip
    check(figures(done)["es"], said, rel=2e-5)


@pytest.mark.slow
def test_our_file_of_logits_is_its_file(
    oracle, bench, native_libraries, perplexity, text_file, tmp_path
) -> None:
    """We write the same bytes but for codes that round the other way, and it reads them."""
    reference, model, base, said = oracle
    bench(
        "quality", model, "--reference", reference, "--logits", tmp_path, "--text",
        f"es={text_file}", "--ctx", N_CTX, "--chunks", CHUNKS, "--threads", 1, **native_libraries,
    )  # fmt: skip
    mine, theirs = (tmp_path / "es.kld").read_bytes(), base.read_bytes()
    assert len(mine) == len(theirs)
    head = LogitFile(base).data_offset
    assert mine[:head] == theirs[:head]
    again = perplexity(model, "--kl-divergence",
                       "--kl-divergence-base", tmp_path / "es.kld")  # fmt: skip
    assert number(again, "Mean    KLD") == pytest.approx(number(said, "Mean    KLD"), rel=1e-3)


def test_interrupted_runs_go_on_to_the_same_figures(
    oracle, bench, text_file, tmp_path, monkeypatch
) -> None:
    """Stop after two windows, in both ways of keeping the reference; the figures are equal."""
    from pedsup.questions.texts import Text
    from pedsup_bench.quality import measure as m

    reference, model, _, _ = oracle

    def plan(folder: Path, *, logits: bool, chunks: int) -> m.QualityPlan:
        return m.QualityPlan(
            model, reference, (Text("es", text_file.read_text("utf-8")),), n_ctx=N_CTX,
            n_chunks=chunks, n_threads=1, logits_folder=folder / "l" if logits else None,
            journal_folder=folder / "j",
        )  # fmt: skip

    whole = m.measure(plan(tmp_path / "whole", logits=False, chunks=4))["es"]

    class StopError(Exception):
        pass

    calls = 0
    real = LineJournal.append

    def stopping(*arguments, **how):  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += 1
        if calls == 3:
            raise StopError
        return real(*arguments, **how)

    monkeypatch.setattr(LineJournal, "append", stopping)
    with pytest.raises(StopError):
        m.measure(plan(tmp_path / "torn", logits=False, chunks=4))
    calls = 10
    resumed = m.measure(plan(tmp_path / "torn", logits=False, chunks=4))["es"]
    assert calls == 12, "two windows were left to do"
    assert resumed.to_lists() == whole.to_lists()
    assert list((tmp_path / "torn" / "j").iterdir()) == []


@pytest.mark.slow
def test_a_torn_file_of_logits_is_completed(oracle, text_file, tmp_path, monkeypatch) -> None:
    from pedsup.questions.texts import Text
    from pedsup_bench.quality import measure as m

    # As on a fast machine, whole windows are timed, also where the reference is a file:
    # as many tokens as the context has room for.
    monkeypatch.setattr(forecast, "LONG_ENOUGH_S", math.inf)
    reference, model, _, _ = oracle
    plan = m.QualityPlan(
        model, reference, (Text("es", text_file.read_text("utf-8")),), n_ctx=256, n_chunks=2,
        n_threads=1, logits_folder=tmp_path / "l", journal_folder=tmp_path / "j",
    )  # fmt: skip
    first = m.measure(plan)["es"].to_lists()
    path = tmp_path / "l" / "es.kld"
    whole = path.read_bytes()
    path.write_bytes(whole[: -len(whole) // 3])
    assert m.measure(plan)["es"].to_lists() == first
    assert path.read_bytes() == whole


def test_another_vocabulary_is_refused(tiny_ggufs, smollm2, bench) -> None:
    done = bench("quality", tiny_ggufs["llama"], "--reference", smollm2, check=False)
    assert done.returncode == 5
    assert "different vocabularies" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_is_its_own_perfect_copy(tiny_ggufs, bench) -> None:
    model = tiny_ggufs["llama"]
    done = bench("quality", model, "--reference", model, "--ctx", 64, "--chunks", 2, "--threads", 1,
                 "--json")  # fmt: skip
    for name in ("en", "es", "all"):
        f = figures(done)[name]
        assert (f["kld"]["max"], f["flips"], f["ppl_ratio"]) == (0.0, 0, 1.0)


@pytest.mark.slow
def test_real_smollm2_equals_llama_perplexity(
    smollm2, native_tool, perplexity, bench, native_libraries, tmp_path
) -> None:
    """Real weights and a 49152-token vocabulary, Q3_K_M against F16, Spanish text."""
    reference, model = tmp_path / "f16.gguf", tmp_path / "q3.gguf"
    quantize = native_tool("llama-quantize")
    for source, out, kind in ((smollm2, reference, "F16"), (reference, model, "Q3_K_M")):
        subprocess.run([quantize, "--allow-requantize", source, out, kind], check=True,
                       capture_output=True)  # fmt: skip
    text = tmp_path / "es.txt"
    text.write_text(default_texts()[1].content, encoding="utf-8")
    base = tmp_path / "base.kld"
    perplexity(reference, "-f", text, "--chunks", 3, "--kl-divergence-base", base)
    said = perplexity(model, "--kl-divergence", "--kl-divergence-base", base)
    done = bench(
        "quality", model, "--reference", reference, "--text", f"es={text}", "--ctx", N_CTX,
        "--chunks", 3, "--threads", 1, "--json", **native_libraries,
    )  # fmt: skip
    mine = figures(done)["es"]
    assert mine["kld"]["mean"] == pytest.approx(number(said, "Mean    KLD"), rel=1e-3)
    assert mine["kld"]["max"] == pytest.approx(number(said, "Maximum KLD"), rel=1e-3)
    assert mine["ppl"] == pytest.approx(number(said, r"Mean PPL\(Q\)"), rel=1e-4)
    assert 100 * mine["same_top"] == pytest.approx(number(said, "Same top p"), abs=6e-4)
