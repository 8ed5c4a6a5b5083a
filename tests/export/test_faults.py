"""The exporter is killed, or its disk fails, at every write, fsync, rename and unlink."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from pedsup_testing import faults, tiny_models

STRIDE = int(os.environ.get("PEDSUP_FAULT_STRIDE", "4"))
"""Besides the first, the middle and the last of each kind of call. All: PEDSUP_FAULT_STRIDE=1."""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler: apt install gcc")
def test_the_old_file_or_the_whole_new_one_at_every_point(tmp_path: Path) -> None:
    base = tiny_models.llama(tmp_path / "base", num_hidden_layers=2)
    adapter = tiny_models.lora(tmp_path / "adapter", base)
    config = {"root": str(tmp_path / "sweep"), "base": str(base), "adapter": str(adapter),
              "stride": str(STRIDE)}  # fmt: skip
    (tmp_path / "sweep").mkdir()
    driver = Path(__file__).with_name("fault_driver.py")
    report = faults.drive(driver, config, faults.build(tmp_path))["export"]
    print(report)
    for kind in faults.KINDS:
        assert report["tried"][kind] >= 40 // STRIDE
        # Writing, syncing, renaming; deleting counts for a kill only.
        assert set(report["calls"][kind]) >= set("wfr" + ("u" if kind == "kill" else ""))
    assert report["ends"]["kill"]["killed"] == report["tried"]["kill"]
    # A disk that fails is an error at every point: no failure passes for a success.
    assert set(report["ends"]["ENOSPC"]) == {"error"}
    assert set(report["ends"]["EIO"]) == {"error"}


def test_a_stride_leaves_no_kind_of_call_out() -> None:
    calls = "wwwwwwwwwwfwwwwrfu"
    assert faults.points_to_try(calls, 1) == list(range(1, 19))
    assert faults.points_to_try(calls, 100) == [1]
    # w: 1, the 8th of 14, 15; f: 11 and 17, r: 16, u: 18.
    assert faults.points_to_try(calls, 100, each_call=True) == [1, 8, 11, 15, 16, 17, 18]
