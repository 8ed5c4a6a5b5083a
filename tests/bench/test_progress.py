"""How long things will take: the guess, what is learned on the way, and the bar."""

from __future__ import annotations

import time

import pytest

from pedsup.gguf_file import read_header
from pedsup_bench.report import bars
from pedsup_bench.report.forecast import Rates, human_seconds, seconds_per_token
from pedsup_bench.speed.plan import SpeedPlan
from pedsup_bench.speed.progress import Step, Work, load_steps, speed_steps


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 s"), (41.6, "42 s"), (89, "89 s"), (100, "2 min"), (3600, "60 min"),
     (7800, "2 h 10 min")],
)  # fmt: skip
def test_durations_in_words(seconds: float, said: str) -> None:
    assert human_seconds(seconds) == said


def test_the_guess_grows_with_the_model_and_shrinks_with_threads(smollm2) -> None:  # type: ignore[no-untyped-def]
    one, two = (Rates.guess(read_header(smollm2), n) for n in (1, 2))
    assert one.prompt == pytest.approx(2 * two.prompt)
    assert one.decode == two.decode, "decoding is bound by memory"
    # 134.5 M weights, two operations each, at 15 or 40 G operations per second and core.
    assert 2 * 134.5e6 / 40e9 <= one.prompt <= 2 * 134.6e6 / 15e9


def test_work_learns_how_long_a_unit_takes() -> None:
    now = 0.0
    steps = [Step("prompt", 10), Step("prompt", 10), Step("decode", 5), Step("seconds", 3)]
    work = Work(steps, Rates(prompt=1.0, decode=4.0, load=1.0), clock=lambda: now)
    assert work.left() == 10 + 10 + 20 + 3
    now = 4.0
    assert work.left() == 39, "time that passes in a step is not left"
    now = 20.0
    assert work.left() == 33, "a step that takes longer than foreseen leaves the others"
    work.done(steps[:1])
    # 2 s a token instead of 1: decoding, not seen yet, is taken to be slower in the same way.
    assert work.left() == 20 + 40 + 3
    now = 40.0
    work.done(steps[1:2])
    now = 45.0
    work.done(steps[2:3])
    assert work.rate("decode") == 1.0
    assert work.left() == 3
    work.done(steps[3:])
    assert work.left() == 0


def test_a_plan_s_steps_hold_every_token_once(tmp_path) -> None:  # type: ignore[no-untyped-def]
    plan = SpeedPlan(tmp_path / "m", prompts=(32, 128), depths=(0, 512), repeats=3, n_decode=16)
    steps = speed_steps(plan)
    assert sum(s.amount for s in steps if s.kind == "decode") == 2 * 3 * 16
    assert sum(s.amount for s in steps if s.kind == "prompt") == 32 + 3 * (32 + 128) + 1 + 512
    assert [s.kind for s in load_steps(plan)] == ["load", "prompt"]


def test_a_bar_moves_while_an_item_takes_long(capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(bars, "SILENT_S", 0.05)
    with bars.item_bar(3, "quality", "window") as bar:
        time.sleep(0.3)
        assert "0/3" in capsys.readouterr().err, "drawn without an update"
        bar.update(3)
    assert "3/3" in capsys.readouterr().err
    with bars.item_bar(3, "short", "window") as bar:
        bar.update(3)
    assert capsys.readouterr() == ("", "")


def test_a_rate_is_measured_on_parts_that_double_until_they_take_long_enough() -> None:
    now, parts = 0.0, []

    def read(tokens: list[int]) -> None:
        nonlocal now
        parts.append(len(tokens))
        now += 100.0 if len(parts) == 1 else 0.001 * len(tokens)  # the first one loads pages

    assert seconds_per_token(read, list(range(1000)), lambda: now) == pytest.approx(0.001)
    assert parts == [8, 16, 32, 64, 128, 256]
    parts.clear()
    assert seconds_per_token(read, list(range(20)), lambda: now) == pytest.approx(0.001)
    assert parts == [8, 16, 20]
