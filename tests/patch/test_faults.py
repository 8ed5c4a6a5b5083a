"""Patching is killed, or its disk fails, at every write, fsync, rename, truncate and unlink."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from pedsup_testing import faults
from pedsup_testing.home import environment

STRIDE = int(os.environ.get("PEDSUP_FAULT_STRIDE", "40"))
"""Besides the first, the middle and the last of each kind of call. All: PEDSUP_FAULT_STRIDE=1."""
JOBS = ("making", "beside", "in place", "in place, longer", "in place, shorter", "undo",
        "undo, longer", "undo, shorter", "join")  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler: apt install gcc")
@pytest.mark.parametrize("job", JOBS)
def test_the_old_file_or_the_new_one_at_every_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    config: dict[str, object] = {"root": str(tmp_path), "stride": str(STRIDE), "job": job}
    driver = Path(__file__).with_name("fault_driver.py")
    report = faults.drive(driver, config, faults.build(tmp_path))[job]
    print(job, report)
    assert report["ends"]["kill"] == {"killed": report["tried"]["kill"]}
    # A disk that fails is an error wherever something is written: no failure passes for a success.
    assert set(report["ends"]["ENOSPC"]) == {"error"}
    assert set(report["ends"]["EIO"]) == {"error"}
    assert report["points"] >= 20
