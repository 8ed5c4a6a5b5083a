"""What CI asks of `make gguf`: the gate's figures, the library's word, times per recipe line."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pedsup_tools.from_nothing import ROOT, check_quality, measured

BUILD: dict[str, Any] = {"features": ["AVX2"], "missing": []}


def quality(**changes: Any) -> dict[str, Any]:
    """As the manifest has it; figures of SmolLM2 at Q4_K_M."""
    return {
        "checks": [{"sentence": f"check {i}", "passed": True} for i in range(4)],
        "figures": {"all": {"kld": {"mean": 0.07}, "same_top": 0.83}},
        **changes,
    }


def test_a_good_run_has_nothing_wrong() -> None:
    assert check_quality(quality(), BUILD) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"checks": [{"sentence": f"check {i}", "passed": i > 0} for i in range(4)]},
        {"checks": []},
        {"figures": {"all": {"kld": {"mean": 0.0}, "same_top": 1.0}}},
        {"figures": {"all": {"kld": {"mean": float("nan")}, "same_top": 0.83}}},
    ],
)
def test_each_fault_of_the_file_is_said(changes: dict[str, Any]) -> None:
    assert len(check_quality(quality(**changes), BUILD)) == 1


@pytest.mark.parametrize("build", [None, {"features": ["LLAMAFILE"], "missing": ["AVX2"]}])
def test_a_build_without_vector_units_is_said(build: dict[str, Any] | None) -> None:
    assert len(check_quality(quality(), build)) == 1


def test_a_file_without_a_gate_is_said() -> None:
    assert len(check_quality(None, BUILD)) == 1


def test_make_through_the_timed_shell_does_and_fails_as_without(tmp_path: Path) -> None:
    makefile, times = tmp_path / "Makefile", tmp_path / "times"
    makefile.write_text("good:\n\t@echo made; echo said >&2\nbad:\n\t@exit 3\n")
    command = ["make", "-f", str(makefile), f"SHELL={ROOT / '.ci/timed-shell'}"]
    # Below `make check` this make would be a sub-make, which says which folder it enters.
    outer = {"MAKELEVEL", "MAKEFLAGS", "MFLAGS"}
    env = {k: v for k, v in os.environ.items() if k not in outer} | {"PEDSUP_TIMES": str(times)}
    good = subprocess.run([*command, "good"], capture_output=True, text=True, env=env, check=True)
    assert (good.stdout, good.stderr) == ("made\n", "said\n")
    seconds, _, line = times.read_text().rstrip("\n").partition("\t")
    assert len(list(map(float, seconds.split()))) == 3
    assert line == "echo made; echo said >&2"
    assert subprocess.run([*command, "bad"], capture_output=True, env=env).returncode == 2


def test_processor_time_of_a_child_is_counted() -> None:
    cpu, _, out = measured(["sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo x"])
    assert out == "x\n"
    assert cpu > 0
