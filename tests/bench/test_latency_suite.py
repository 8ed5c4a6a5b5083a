"""The regression suite itself: it passes when nothing changed and fails on a planted slow-down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pedsup.errors import BadFileError
from pedsup_maintain.latency import Baseline, judge, normalised, read_baseline, update_baseline

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "tests" / "bench" / "benchmarks" / "baseline.json"
FIGURES = {"load", "first_token", "prompt", "decode", "export", "prefix_cache_hit"}
BASE = Baseline({"default": 1.4, "load": 2.0}, 4.0, {"a": {"decode": 10.0, "load": 5.0}})


def test_judge_names_the_limit_and_the_excess() -> None:
    assert judge(BASE, "a", "decode", 13.9)[0] == "pass"
    outcome, sentence = judge(BASE, "a", "decode", 21.0)
    assert outcome == "fail"
    assert "50% beyond the limit 14.00" in sentence
    assert judge(BASE, "a", "load", 9.9)[0] == "pass"
    assert judge(BASE, "b", "decode", 39.0)[0] == "pass"
    assert judge(BASE, "b", "decode", 41.0)[0] == "fail"
    assert judge(BASE, "a", "export", 1e9)[0] == "new"


def test_normalised_divides_a_slower_clock_out() -> None:
    fast, slow = normalised([1.0, 1.1], [0.1, 0.12]), normalised([2.0, 2.2], [0.2, 0.24])
    assert fast == pytest.approx(slow) == pytest.approx(10)


def test_the_committed_baseline_has_every_figure() -> None:
    baseline = read_baseline(COMMITTED)
    assert 1 < baseline.tolerance["default"] <= 1.5
    assert all(set(values) == FIGURES for values in baseline.machines.values())
    assert baseline.machines


def test_update_keeps_other_machines(tmp_path) -> None:
    path = tmp_path / "b.json"
    path.write_bytes(COMMITTED.read_bytes())
    before = read_baseline(path).machines
    update_baseline(path, "new", {"load": 1.23456})
    after = read_baseline(path).machines
    assert after.pop("new") == {"load": 1.235}
    assert after == before
    path.write_text("{}")
    with pytest.raises(BadFileError):
        read_baseline(path)


def run_suite(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "--benchmark", "-q", "-p", "no:cacheprovider", "-s",
         str(COMMITTED.parent), *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ, **env},
    )  # fmt: skip


@pytest.mark.slow
def test_flag_chooses_the_suite_and_leaves_the_plugin_s_options_alone() -> None:
    pytest.importorskip("pytest_benchmark", reason="pip install 'pedsup[bench]'")
    listed = run_suite("--collect-only", "--benchmark-min-rounds=3", "--benchmark-sort=name").stdout
    assert "test_decode" in listed
    without = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider",
         str(COMMITTED.parent)],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    ).stdout  # fmt: skip
    assert "test_decode" not in without
    assert "deselected" in without


@pytest.mark.slow
def test_planted_slow_down_fails_and_three_clean_runs_pass(smollm2, tmp_path) -> None:
    pytest.importorskip("pytest_benchmark", reason="pip install 'pedsup[bench]'")
    own = tmp_path / "baseline.json"
    own.write_text(json.dumps({**json.loads(COMMITTED.read_text("utf-8")), "machines": {}}))
    env, chosen = {"PEDSUP_LATENCY_BASELINE": str(own)}, ("-k", "load or decode")
    stored = run_suite(*chosen, "--update-latency-baseline", **env)
    assert stored.returncode == 0, stored.stdout
    for _ in range(3):
        clean = run_suite(*chosen, **env)
        assert clean.returncode == 0, clean.stdout
    for figure in ("load", "decode"):
        slow = run_suite(*chosen, PEDSUP_LATENCY_PLANT=f"{figure}=2", **env)
        assert slow.returncode == 1, slow.stdout
        assert f"{figure}: " in slow.stdout
        assert "beyond the limit" in slow.stdout
        assert "1 failed, 1 passed" in slow.stdout
