"""Transcripts and the prefix cache, killed or on a failing disk, at every write and rename."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pedsup_testing import faults

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs gcc: apt install gcc")


@pytest.mark.slow
def test_no_finished_turn_is_lost(tmp_path: Path) -> None:
    config = {"root": str(tmp_path)}
    report = faults.drive(
        Path(__file__).with_name("fault_driver.py"), config, faults.build(tmp_path)
    )["transcripts"]
    print(report)
    assert report["tried"]["kill"] > 40
    assert report["ends"]["kill"]["killed"] == report["tried"]["kill"]


@pytest.mark.slow
def test_a_damaged_prefix_cache_is_read_again(tmp_path: Path, gemma4_gguf: Path) -> None:
    config = {"root": str(tmp_path), "model": str(gemma4_gguf)}
    report = faults.drive(
        Path(__file__).with_name("fault_driver.py"), config, faults.build(tmp_path)
    )["prefix cache"]
    print(report)
    # Not being able to keep the cache is a notice, no error: the conversation goes on.
    assert set(report["ends"]["ENOSPC"]) == {"succeeded"}
    assert report["tried"]["kill"] >= 5
