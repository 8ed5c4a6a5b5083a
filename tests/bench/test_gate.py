"""Thresholds, breaches by how much, and the command's exit code and document."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pedsup.errors import BadFileError, UsageError
from pedsup_bench.gate.check import Check, GateError, check_figures, require_pass
from pedsup_bench.gate.run import GatePlan, run_gate
from pedsup_bench.gate.thresholds import Thresholds, read_thresholds, thresholds_for
from pedsup_bench.quality.divergence import token_figures
from pedsup_bench.quality.summary import summarize
from pedsup_bench.report.document import dumps


def test_shipped_thresholds_get_stricter_with_larger_types() -> None:
    table = read_thresholds(None)
    order = ["Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16", "F32"]
    means = [table[name].kld_mean for name in order]
    assert means == sorted(means, reverse=True)
    tops = [table[name].same_top for name in order]
    assert tops == sorted(tops)


def test_breach_says_by_how_much() -> None:
    checks = check_figures(
        {"kld_mean": 0.15, "kld_p99": 0.5, "same_top": 0.7, "ppl_ratio": 1.0},
        Thresholds(kld_mean=0.1, same_top=0.8, ppl_ratio=1.0),
    )
    assert [(c.figure, c.passed) for c in checks] == [
        ("kld_mean", False), ("same_top", False), ("ppl_ratio", True),
    ]  # fmt: skip
    assert (
        checks[0].sentence
        == "kld_mean is 0.15, at most 0.1 is allowed: off by 0.05 (50% of the limit)"
    )
    assert "at least 0.8" in checks[1].sentence
    document = {
        "model": {"file": "m.gguf"}, "file_type": "Q4_K_M", "checks": [c.to_json() for c in checks],
    }  # fmt: skip
    with pytest.raises(GateError, match="2 of 3 thresholds") as error:
        require_pass(document)
    assert "off by 0.05" in str(error.value)
    assert error.value.exit_code == 11


def test_limit_itself_passes_and_nan_does_not() -> None:
    assert Check("kld_mean", 0.1, 0.1, "at most").passed
    assert not Check("kld_mean", float("nan"), 0.1, "at most").passed


@pytest.mark.parametrize(
    "text",
    [
        "[default]\nkld = 1",
        "[default]\nkld_mean = 'x'",
        "not toml",
        "[Q8_0]\nkld_mean = true",
        "",
        "# no limits\n",
        "[default]\n",
        "[Q4_KM]\nkld_mean = 0.1",
        "[defaults]\nkld_mean = 0.1",
        "[default]\nkld_mean = inf",
        pytest.param("[default]\nkld_mean = 1" + "0" * 400, id="more than a float"),
        pytest.param("[default]\nkld_mean = 1" + "0" * 5000, id="more than Python reads"),
        pytest.param("a = " + "[" * 5000 + "]" * 5000, id="deep"),
        "[default]\nkld_mean = nan",
        "[default]\nkld_p99 = -1",
        "[default]\nsame_top = 1.5",
        "[default]\nsame_top = -inf",
        "kld_mean = 0.1",
        "[default]\nkld_mean = 1e999",
        "\xff",
    ],
)
def test_bad_thresholds_are_refused(text, tmp_path) -> None:
    path = tmp_path / "t.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadFileError):
        read_thresholds(path)


@pytest.mark.parametrize(("limit", "wanted"), [
    ("same_top = 0", "above 0, which every file reaches, to 1"),
    ("kld_mean = 12.5", "from 0 to below 12.5"), ("kld_p99 = 1e6", "from 0 to below 100"),
    ("ppl_ratio = 1e9", "from 0 to below 1000"), ("accuracy_drop = 1", "which no drop exceeds"),
    ("task_loss_rise = 13", "from 0 to below 12.5"), ("task_drop = 1.0", "from 0 to below 1,"),
])  # fmt: skip
def test_a_limit_that_could_stop_nothing_is_refused_by_name(tmp_path, limit, wanted) -> None:
    path = tmp_path / "t.toml"
    path.write_text(f"[default]\nkld_mean = 0.1\n[Q4_0]\n{limit}\n")
    with pytest.raises(BadFileError) as refused:
        read_thresholds(path)
    said = str(refused.value)
    assert wanted in said and limit.split()[0] in said and "Q4_0" in said


def test_a_mistyped_table_is_named_with_what_was_meant(tmp_path) -> None:
    path = tmp_path / "t.toml"
    path.write_text("\ufeff[q4_km]\r\nkld_mean = 0.1\r\n", encoding="utf-8")
    with pytest.raises(BadFileError, match="unknown key 'q4_km'") as error:
        read_thresholds(path)
    assert "did you mean 'Q4_K_M'?" in str(error.value)


@pytest.mark.parametrize(
    ("value", "said"), [(float("nan"), "is not a number"), (float("inf"), "is infinite")]
)
def test_a_figure_that_is_no_number_says_so(value, said) -> None:
    for direction in ("at most", "at least"):
        check = Check("kld_mean", value, 0.1, direction)
        assert said in check.sentence
        assert check.passed == (value > 0 and direction == "at least")
    text = dumps({"checks": [Check("kld_mean", value, 0.1, "at most").to_json()]})
    assert json.loads(text)["checks"][0]["value"] is None


def test_models_without_a_single_number_do_not_agree() -> None:
    nothing = np.full((3, 5), np.nan)
    figures = token_figures(nothing, nothing.astype(np.float32), np.zeros(3, dtype=np.int64))
    assert figures.same.tolist() == [0.0] * 3
    whole = summarize(figures)
    (check,) = check_figures({"kld_mean": whole.kld.mean}, Thresholds(kld_mean=1e9))
    assert not check.passed and "not a number" in check.sentence


def test_what_would_check_nothing_is_refused_before_anything_is_measured(
    tiny_quantized, tmp_path
) -> None:
    other = tmp_path / "other.toml"
    other.write_text("[F32]\nkld_mean = 0.1\n")
    drop = tmp_path / "drop.toml"
    drop.write_text("[default]\naccuracy_drop = 0.1\n")
    missing = tmp_path / "there is no such reference"
    for thresholds, found in ((other, "limit nothing"), (drop, "limit nothing")):
        with pytest.raises(BadFileError, match=found):
            run_gate(GatePlan(tiny_quantized["llama"], missing, thresholds))
    with pytest.raises(UsageError, match="need a reference"):
        run_gate(GatePlan(tiny_quantized["llama"], None, questions=tmp_path / "q"))
    document = {"model": {"file": "m.gguf"}, "file_type": "Q4_K_M", "checks": []}
    with pytest.raises(GateError, match="nothing was checked"):
        require_pass(document)


def test_a_type_s_limits_fall_back_to_the_default_s(tiny_quantized) -> None:
    table = {"default": Thresholds(kld_mean=1.0, ppl_ratio=2.0), "Q4_K_M": Thresholds(kld_mean=0.1)}
    name, limits = thresholds_for(tiny_quantized["llama"], table)
    assert name == "Q4_K_M"
    assert (limits.kld_mean, limits.ppl_ratio) == (0.1, 2.0)


def test_file_type_numbers_are_llama_cpp_s() -> None:
    pytest.importorskip("gguf", reason="pip install 'pedsup[export]'")
    from gguf import LlamaFileType

    from pedsup.gguf_file.file_types import FILE_TYPES

    names = {"F32": "ALL_F32"}
    for name, (_, number, _) in FILE_TYPES.items():
        assert LlamaFileType(number).name == names.get(name, f"MOSTLY_{name}")


def test_a_dry_run_names_what_is_held_against_which_limit(
    tiny_ggufs, tiny_quantized, bench, tmp_path
) -> None:
    limits = tmp_path / "t.toml"
    limits.write_text("[default]\nkld_mean = 0.5\n[Q4_K_M]\nsame_top = 0.8\ntask_drop = 0.1\n")
    run = ("gate", tiny_quantized["llama"], "--reference", tiny_ggufs["llama"], "--dry-run",
           "--threads", 1, "--thresholds", limits)  # fmt: skip
    said = bench(*run).stdout
    assert "file type      Q4_K_M\n" in said and "task_drop" not in said, "no examples are given"
    document = json.loads(bench(*run, "--json").stdout)
    assert document["kind"] == "bench-plan"
    assert document["plan"]["limits"] == ["kld_mean 0.5", "same_top 0.8"]
    assert not list((tmp_path / "cache").rglob("*.jsonl")), "nothing was measured"
    limits.write_text("[default]\ntask_drop = 0.1\n")
    refused = bench(*run, check=False)
    assert refused.returncode == 3 and "limit nothing" in refused.stderr


@pytest.mark.slow
def test_the_command_passes_and_refuses(tiny_ggufs, tiny_quantized, bench, tmp_path) -> None:
    model, reference = tiny_quantized["llama"], tiny_ggufs["llama"]
    loose, tight = tmp_path / "loose.toml", tmp_path / "tight.toml"
    loose.write_text("[default]\nkld_mean = 10.0\nsame_top = 1e-9\n")
    tight.write_text("[default]\nkld_mean = 0.0\nsame_top = 1e-9\n")
    out = tmp_path / "gate.json"
    run = ("gate", model, "--reference", reference, "--threads", 1, "--out", out, "--force")
    good = bench(*run, "--thresholds", loose)
    assert "passed" in good.stdout
    bad = bench(*run, "--thresholds", tight, check=False)
    assert bad.returncode == 11
    assert "BREACH kld_mean" in bad.stdout
    assert "off by" in bad.stderr
    document = json.loads(out.read_text("utf-8"))
    assert document["passed"] is False
    assert document["model"]["sha256"]
    assert document["figures"]["en"]["kld"]["mean"] > 0
