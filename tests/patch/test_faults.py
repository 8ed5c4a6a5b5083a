"""Patching is killed, or its disk fails, at every write, fsync, rename, truncate and unlink."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from pedsup_testing import faults
from pedsup_testing.home import environment

STRIDE = int(os.environ.get("PEDSUP_FAULT_STRIDE", "4"))
"""Besides the first, the middle and the last of each kind of call. All: PEDSUP_FAULT_STRIDE=1."""
JOBS = ("making", "beside", "in place", "in place, longer", "in place, shorter", "undo",
        "undo, longer", "join")  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler: apt install gcc")
def test_the_old_file_or_the_new_one_at_every_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    config = {"root": str(tmp_path / "sweep"), "stride": str(STRIDE)}
    (tmp_path / "sweep").mkdir()
    driver = Path(__file__).with_name("fault_driver.py")
    report = faults.drive(driver, config, faults.build(tmp_path))
    print({name: found["tried"] for name, found in report.items()})
    assert set(report) == set(JOBS)
    for name, found in report.items():
        assert found["ends"]["kill"].get("killed") == found["tried"]["kill"], name
        # A disk that fails is an error wherever something is written that is needed.
        assert set(found["ends"]["ENOSPC"]) <= {"error"}, name
        assert set(found["ends"]["EIO"]) <= {"error"}, name
    tried = sum(sum(found["tried"].values()) for found in report.values())
    assert tried * STRIDE > 800
