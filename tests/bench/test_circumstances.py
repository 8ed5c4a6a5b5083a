"""What a speed run says of the machine: other programs, and whether a cold load was cold."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

import pytest

from pedsup.device.cores import allowed_cpus
from pedsup_bench.speed.device import Moment, between, told, warning_before
from pedsup_bench.speed.measure import load_once, resident_share, was_cold
from pedsup_bench.speed.plan import SpeedPlan
from pedsup_bench.speed.render import figure_name


def test_a_hole_is_not_resident_and_what_was_written_is(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (64 * mmap.PAGESIZE))
    assert resident_share(path) == 1.0
    os.truncate(path, 256 * mmap.PAGESIZE)
    assert resident_share(path) == pytest.approx(0.25)
    (tmp_path / "empty").write_bytes(b"")
    assert resident_share(tmp_path / "empty") is None


@pytest.mark.parametrize(
    ("resident", "read", "cold"),
    [(0.0, 0, True), (0.5, 0, False), (1.0, None, False), (1.0, 950, True), (None, 950, True),
     (None, 500, False), (None, None, False)],
)  # fmt: skip
def test_cold_is_what_was_not_there_or_was_read(
    resident: float | None, read: int | None, cold: bool
) -> None:
    """Of a file of 1000 bytes; the kernel says 1.0 of a file that is not ours."""
    assert was_cold(resident, read, 1000) is cold


def test_a_load_of_a_file_that_another_program_holds_is_not_called_cold(
    tiny_quantized: dict[str, Path],
) -> None:
    plan = SpeedPlan(tiny_quantized["llama"], n_threads=1, first_prompt=16)
    with (
        plan.model.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held,
    ):
        assert sum(held[i] for i in range(0, len(held), mmap.PAGESIZE)) >= 0
        kind, _ = load_once(plan, cold=True)
        assert (kind, resident_share(plan.model)) == ("uncertain", 1.0)
    assert load_once(plan, cold=False)[0] == "warm"


def test_figures_have_plain_names_with_the_technical_one_behind() -> None:
    assert figure_name("rss_anon_warm") == "own memory (RssAnon), warm"
    assert figure_name("rss_file_cold") == "mapped file (RssFile), cold"
    assert figure_name("load_uncertain") == "load, perhaps warm"
    assert (figure_name("prompt_128"), figure_name("decode_0")) == (
        "prompt of 128", "decode at depth 0",
    )  # fmt: skip
    assert figure_name("something_else") == "something_else"


def stat_file(root: Path, ticks: int) -> Path:
    """/proc/stat as proc(5) has it: `ticks` of user time on the first processor we may use, some
    idle and waiting time, and a processor that is not ours."""
    (root / "proc").mkdir(exist_ok=True)
    first, *_ = sorted(allowed_cpus())
    (root / "proc/stat").write_text(
        f"cpu  9 9 9 9 9 9 9 9 9 9\ncpu{first} {ticks} 0 0 777 888 0 0 0 5 5\n"
        "cpu99999 1000000 0 0 0 0 0 0 0 0 0\nintr 5\n"
    )
    return root


def moments(root: Path, before: int, after: int) -> Any:
    first, second = Moment.now(stat_file(root, before)), Moment.now(stat_file(root, after))
    # Ten seconds in which this process used one second of processor time.
    fixed = {"load": 0.0}
    return (
        Moment(0.0, fixed["load"], first.busy_s, 0.0),
        Moment(10.0, 2.0, second.busy_s, 1.0),
    )


def test_others_are_told_from_the_measurement_itself(tmp_path: Path) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    quiet = between(*moments(tmp_path, 0, ticks))
    assert (quiet["others"], quiet["busy"]) == (0.0, False)
    assert "was quiet" in told(quiet)
    busy = between(*moments(tmp_path, 0, 6 * ticks))
    assert busy["others"] == pytest.approx(0.5)
    assert busy["busy"]
    assert "BUSY: load 0.0 to 2.0" in told(busy)
    assert "used 0.5 of" in told(busy)


def test_where_the_kernel_hides_it_the_load_before_decides(tmp_path: Path) -> None:
    """As on Android."""
    assert Moment.now(tmp_path).busy_s is None
    for load, busy in ((0.1, False), (3.0, True), (None, False)):
        before = Moment(0.0, load, None, 0.0)
        found = between(before, Moment(5.0, 1.0, None, 0.0))
        assert (found["others"], found["busy"]) == (None, busy)
        assert (warning_before(before) is not None) is busy
