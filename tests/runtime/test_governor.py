"""The governor's policy on simulated speed traces, its sensors, and real decoding under it."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pedsup_testing import near_ties, sized_models
from pedsup_testing.fake_engine import FakeEngine

from pedsup.device.heat import Heat, HeatSensors
from pedsup.engine.api import SamplingConfig
from pedsup.engine.proxy import passed_on
from pedsup.gguf_file import read_header
from pedsup.governor.engine import Governor, child_cpu_time, govern
from pedsup.governor.policy import SUSTAINED, Action, Limits, Sample, State, observe
from pedsup.memory.estimate import depth_share

COOL_TPS = 12.4
THROTTLED_TPS = 3.8
MINUTES_30 = 1800.0
MOST = 120
"""Tokens of the real runs."""


@dataclass
class Phone:
    """A made phone: samples of about two seconds, at the threads that the governor asks for."""

    tps: Callable[[float, int, int], float]
    """Tokens per second from seconds, threads and depth."""
    noise: float = 0.0
    busy: Callable[[float], float | None] = lambda at: 0.97
    hot: Callable[[float], bool | None] = lambda at: None
    seed: int = 1
    spikes: float = 0.0
    actions: list[Action] = field(default_factory=list)
    tokens: float = 0.0

    def run(self, limits: Limits, seconds: float = MINUTES_30, *, governed: bool = True) -> State:
        draw, state, at, depth = random.Random(self.seed), State(limits.most), 0.0, 0
        while at < seconds:
            threads = state.threads if governed else limits.most
            tps = self.tps(at, threads, depth) * draw.lognormvariate(0, self.noise)
            if draw.random() < self.spikes:
                tps /= 5
            span = max(2.0, 16 / tps)
            at, depth = at + span, depth + int(span * tps)
            self.tokens += span * tps
            if governed:
                sample = Sample(at, 1 / tps, depth, span, self.busy(at), self.hot(at))
                state, action = observe(state, sample, limits)
                if action:
                    self.actions.append(action)
        return state

    @property
    def kinds(self) -> list[str]:
        return [action.kind for action in self.actions]


def reported_collapse(at: float, threads: int, depth: int) -> float:
    """12.4 to 3.8 tokens/s within 30 minutes, whatever the threads: the worst case reported."""
    return COOL_TPS + (THROTTLED_TPS - COOL_TPS) * min(1.0, at / MINUTES_30)


class HeatedChip:
    """Four cores that heat up with their power, and lower their clocks above 70 degrees."""

    def __init__(self) -> None:
        self.celsius, self.last = 35.0, 0.0

    def tps(self, at: float, threads: int, depth: int) -> float:
        clock = min(1.0, max(0.3, 1 - (self.celsius - 70) / 30))
        power = threads * clock**2.2
        step, self.last = at - self.last, at
        # Newton's cooling: steady state 35 + 20 * power, time constant four minutes.
        self.celsius += (35 + 20 * power - self.celsius) * min(1.0, step / 240)
        # Memory bounds decoding: four threads are 1.25 times as fast as three, not 1.33.
        return COOL_TPS * clock * {4: 1.0, 3: 0.92, 2: 0.7, 1: 0.4}[threads]


def test_the_reported_collapse_lowers_threads_before_half_of_the_speed_is_gone() -> None:
    phone = Phone(reported_collapse, noise=0.03)
    phone.run(Limits(4, 2))
    first = phone.actions[0]
    assert (first.kind, first.threads, first.reason) == ("lower", 3, "heat")
    assert first.now_tps > COOL_TPS / 2
    assert first.best_tps == pytest.approx(COOL_TPS, rel=0.1)
    assert first.at_s < 900


def test_on_a_chip_that_heats_up_it_takes_a_thread_and_the_clocks_stay() -> None:
    governed = Phone((chip := HeatedChip()).tps, noise=0.02)
    state = governed.run(Limits(4, 2))
    plain = Phone((hot := HeatedChip()).tps, noise=0.02)
    plain.run(Limits(4, 2), governed=False)
    assert "lower" in governed.kinds
    assert state.threads < 4
    assert chip.celsius < hot.celsius - 1
    # Careful with giving back: no flapping within half an hour.
    assert len(governed.actions) <= 8
    assert governed.tokens > 0.93 * plain.tokens


@pytest.mark.parametrize("seed", range(20))
def test_noise_and_spikes_do_not_lower(seed: int) -> None:
    phone = Phone(lambda at, n, d: 10.0, noise=0.1, spikes=0.05, seed=seed)
    phone.run(Limits(4, 2), 3600)
    assert phone.actions == []


@pytest.mark.parametrize("busy", [0.5, 0.8])
def test_a_background_app_that_takes_the_cores_does_not_lower(busy: float) -> None:
    def taken(at: float) -> bool:
        return 300 < at < 900

    phone = Phone(lambda at, n, d: 10 * (busy if taken(at) else 1),
                  noise=0.03, busy=lambda at: busy if taken(at) else 0.97)  # fmt: skip
    phone.run(Limits(4, 2))
    assert phone.actions == []


def test_a_short_background_app_does_not_lower_where_busy_is_not_known() -> None:
    phone = Phone(lambda at, n, d: 4.0 if 300 < at < 345 else 10.0, noise=0.03,
                  busy=lambda at: None)  # fmt: skip
    phone.run(Limits(4, 2))
    assert phone.actions == []


def test_cool_sensors_veto_and_hot_ones_confirm() -> None:
    slowed = lambda at, n, d: 5.0 if at > 300 else 10.0  # noqa: E731
    cool = Phone(slowed, busy=lambda at: None, hot=lambda at: False)
    cool.run(Limits(4, 2))
    assert cool.actions == []
    hot = Phone(slowed, busy=lambda at: None, hot=lambda at: True)
    hot.run(Limits(4, 2))
    assert 300 < hot.actions[0].at_s < 365
    assert "restore" not in hot.kinds  # not while the sensors say hot


def test_a_growing_context_does_not_lower() -> None:
    """As SmolLM2 slows: 1.44 times at 1000 tokens of context; here up to 8000."""
    share = 0.44 / 1000
    limits = Limits(4, 2, depth_share=share)
    phone = Phone(lambda at, n, d: 10 / (1 + share * d), noise=0.05)
    phone.run(limits, 1200)
    assert phone.actions == []
    # The same trace without the correction would have: the test can fail.
    blind = Phone(lambda at, n, d: 10 / (1 + share * d), noise=0.05)
    blind.run(Limits(4, 2), 1200)
    assert "lower" in blind.kinds


def test_threads_come_back_step_by_step_and_patience_grows() -> None:
    """Hot for ten minutes, then cool: back to all threads, not before the patience is over."""

    def tps(at: float, threads: int, depth: int) -> float:
        full = {4: 12.0, 3: 11.5, 2: 9.0}[threads]
        return full * (0.6 if 200 < at < 800 else 1.0)

    phone = Phone(tps, noise=0.02)
    state = phone.run(Limits(4, 2), 6000)
    assert state.threads == 4
    lowered = [a for a in phone.actions if a.kind == "lower"]
    restored = [a for a in phone.actions if a.kind == "restore"]
    assert lowered
    assert restored
    assert min(r.at_s - lo.at_s for lo in lowered for r in restored if r.at_s > lo.at_s) >= 235


def test_a_pause_brings_all_threads_back_at_once() -> None:
    limits, state = Limits(4, 2), State(3, changed_at=0.0, last_at=100.0)
    state, action = observe(state, Sample(101.0, 0.1, 10, 2.0), limits)
    assert action is None
    state, action = observe(state, Sample(300.0, 0.1, 10, 2.0), limits)
    assert action is not None
    assert (action.kind, action.threads, action.reason) == ("restore", 4, "rested")
    # A slow window is no pause.
    slow = State(3, changed_at=0.0, last_at=100.0)
    assert observe(slow, Sample(300.0, 12.0, 10, 199.0), limits)[1] is None


def test_fewer_threads_that_cost_too_much_are_given_back() -> None:
    """On two big cores one thread is half as fast: that is not worth the coolness."""
    phone = Phone(lambda at, n, d: (10 if at < 200 else 7) * n / 2, noise=0.02)
    state = phone.run(Limits(2, 1), 700)
    assert [(a.kind, a.reason) for a in phone.actions[:2]] == [
        ("lower", "heat"), ("restore", "not worth it"),
    ]  # fmt: skip
    assert state.threads == 2


def test_an_engine_of_fixed_threads_gets_reports_only() -> None:
    phone = Phone(reported_collapse, noise=0.03)
    state = phone.run(Limits(4, 2, adjustable=False))
    assert state.threads == 4
    assert set(phone.kinds) == {"report"}
    assert len(phone.actions) == 1  # told once per episode


def test_least_is_never_passed() -> None:
    phone = Phone(reported_collapse)
    phone.run(Limits(4, 3))
    assert {a.threads for a in phone.actions} <= {3, 4}


# ---- drafts ----


def test_a_server_that_guesses_reports_only_what_sensors_confirm() -> None:
    """Quotations come many times as fast as free text: a loss of speed alone says nothing."""
    limits = Limits(4, 2, adjustable=False, guessing=True)
    for hot, kinds in ((None, set()), (True, {"report"})):
        phone = Phone(reported_collapse, noise=0.03, hot=lambda at, hot=hot: hot)  # type: ignore[misc]
        phone.run(limits)
        assert set(phone.kinds) == kinds
    assert govern(FakeEngine([]), 4, 0.0, drafts=True)[1].limits.guessing
    assert not govern(FakeEngine([]), 4, 0.0)[1].limits.guessing


# ---- sensors ----


def zone(root: Path, number: int, kind: str, temp: str) -> None:
    folder = root / f"sys/class/thermal/thermal_zone{number}"
    folder.mkdir(parents=True)
    (folder / "type").write_text(kind + "\n")
    (folder / "temp").write_text(temp)


def test_sensors_of_the_usual_phones(tmp_path: Path) -> None:
    zone(tmp_path, 0, "battery", "31000\n")
    zone(tmp_path, 2, "cpu-0-0-usr", "61300\n")  # Qualcomm, thousandths
    zone(tmp_path, 3, "mtktscpu", "58\n")  # MediaTek, degrees
    zone(tmp_path, 4, "cpu-1-0-usr", "-274000\n")  # a sensor that is off
    zone(tmp_path, 5, "gpuss-0", "99000\n")
    battery = tmp_path / "sys/class/power_supply/battery"
    battery.mkdir(parents=True)
    (battery / "temp").write_text("385\n")  # tenths
    assert HeatSensors(tmp_path).read() == Heat(cpu=61.3, battery=38.5)


@pytest.mark.parametrize(
    ("heat", "hot"),
    [
        (Heat(), None),
        (Heat(cpu=80.0), True),
        (Heat(battery=43.0), True),
        (Heat(cpu=45.0), False),
        (Heat(cpu=45.0, battery=38.0), None),
        (Heat(cpu=60.0), None),
    ],
)
def test_hot_cool_and_in_between(heat: Heat, hot: bool | None) -> None:
    assert heat.hot is hot


def test_cpu_time_of_a_child_is_the_kernels() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "import time,sys\nt=time.process_time()\n"
         "while time.process_time()-t<0.4: pass\nprint(time.process_time(),flush=True)\n"
         "sys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    said = float(child.stdout.readline())
    assert child_cpu_time(child.pid) == pytest.approx(said, abs=0.05)
    child.communicate("")
    assert child_cpu_time(child.pid) is None


# ---- the governed engine ----


def test_tokens_pass_unchanged_and_an_early_reader_closes_the_engine() -> None:
    inner = FakeEngine([list("abcdef"), list("xyz")])
    governor = Governor(Limits(4, 2), None, lambda: None)
    engine = passed_on(inner, governor.watch)
    tokens = list(engine.generate([1], SamplingConfig(), max_tokens=9))
    assert inner.text([t.id for t in tokens]) == "abcdef"
    stream = engine.generate([1], SamplingConfig(), max_tokens=9)
    next(stream)
    stream.close()
    assert engine.cached == inner.cached
    assert list(passed_on(FakeEngine([]), governor.watch).generate(
        [1], SamplingConfig(), max_tokens=3)) == []  # fmt: skip


def test_a_server_engine_cannot_be_adjusted() -> None:
    _, governor = govern(FakeEngine([]), 4, 0.0)
    assert not governor.limits.adjustable


def test_depth_share_of_smollm2(smollm2: Path) -> None:
    """23040 bytes of keys and values per token (30 layers, 3 heads of 64, K and V, float16)."""
    header = read_header(smollm2)
    weights = sum(t.n_bytes for t in header.tensors.values())
    assert depth_share(header) == pytest.approx(2 * 23040 / weights)


def test_the_sliding_layers_of_gemma_do_not_grow(tmp_path: Path) -> None:
    """Two of 12 layers see the whole context: 2 heads of 128, K and V, float16."""
    header = read_header(sized_models.write(tmp_path / "g.gguf", sized_models.SMALL_GEMMA, None))
    table = header.tensors["per_layer_token_embd.weight"].n_bytes
    weights = sum(t.n_bytes for t in header.tensors.values()) - table
    assert depth_share(header) == pytest.approx(2 * (2 * 2 * 128 * 2 * 2) / weights)


VISITS = " ".join(
    f"Visit {n}: the child weighs {10 + 0.7 * n:.1f} kg and drank {37 * n % 90 + 5} ml of water."
    for n in range(40)
)
"""A text of the test's own, about 780 tokens."""


@pytest.mark.slow
def test_greedy_text_is_identical_while_threads_change(  # type: ignore[no-untyped-def]
    open_inprocess, smollm2
) -> None:
    """Below 256 tokens in the cache no sum is split among the threads: the same bits."""
    engine = open_inprocess(smollm2, n_ctx=512, n_threads=2, n_threads_batch=2)
    sampling = SamplingConfig(temperature=0, banned=tuple(engine.info.end_of_generation))
    prompt = engine.tokenize(VISITS, parse_special=False)[:20]

    def text(change: Callable[[int], None]) -> list[int]:
        tokens = []
        for token in engine.generate(prompt, sampling, max_tokens=24):
            change(len(tokens))
            tokens.append(token.id)
        return tokens

    engine.set_threads(1)
    alone = text(lambda n: None)
    assert len(alone) == 24
    # Two threads in a third of the steps: beside other programs they wait for each other.
    assert text(lambda n: engine.set_threads(1 + (n % 12 > 7))) == alone


@pytest.mark.slow
@pytest.mark.parametrize("start", [230, 490])
def test_a_long_text_scores_the_same_while_threads_change(  # type: ignore[no-untyped-def]
    open_inprocess, smollm2, start: int
) -> None:
    """Longer texts' attention is split among the threads: the same scores within rounding."""
    engine = open_inprocess(smollm2, n_ctx=1024, n_threads=2, n_threads_batch=2)
    text = engine.tokenize(VISITS, parse_special=False)[: start + 32]
    assert len(text) == start + 32
    prompt, tokens = text[:start], text[start:]

    def apart(before: Callable[[int], object] = lambda n: None) -> list[float]:
        engine.set_threads(1)
        found = near_ties.rows(engine, prompt, tokens, before)
        return [near_ties.distance(a, b) for a, b in zip(found, wanted, strict=True)]

    engine.set_threads(1)
    near_ties.rows(engine, prompt, tokens[:1])  # the prompt is read once, for all
    wanted = near_ties.rows(engine, prompt, tokens)
    assert apart() == [0] * len(tokens)
    assert max(apart(lambda n: engine.set_threads(1 + (n % 12 > 7)))) < near_ties.bound(engine)
    # It can fail: one other token far back is no rounding.
    prompt[start - 40] += 1
    assert max(apart()) > near_ties.bound(engine)


@pytest.mark.slow
def test_a_real_engine_is_lowered_when_it_is_slowed_and_says_the_same(  # type: ignore[no-untyped-def]
    open_inprocess, smollm2
) -> None:
    """Decoding is slowed eight times. Where nothing tells who has the cores that counts as heat:
    threads are lowered for real, and the text goes on the same. Where the process got an eighth
    of the processor time that its wall time would give, others had the cores: nothing is done.
    """
    engine = open_inprocess(smollm2, n_ctx=2048, n_threads=2, n_threads_batch=2)
    sampling = SamplingConfig(temperature=0, banned=tuple(engine.info.end_of_generation))
    prompt = engine.tokenize("Once upon a time", parse_special=False)
    engine.set_threads(1)
    alone = [t.id for t in engine.generate(prompt, sampling, max_tokens=MOST)]

    def run(cpu_time: Callable[[], float | None]) -> Governor:
        engine.set_threads(2)
        clock = ScaledClock(30)  # minutes of the policy pass within the test
        governor = Governor(
            Limits(2, 1), engine.set_threads, cpu_time, window=(1, 0.0), clock=clock
        )
        tokens = []
        governed = passed_on(engine, governor.watch)
        for token in governed.generate(prompt, sampling, max_tokens=MOST):
            tokens.append(token.id)
            if len(tokens) == SUSTAINED + 4:
                clock.run_at(8 * 30)
        assert tokens == alone
        return governor

    lowered = run(lambda: None)
    assert any(a.kind == "lower" and a.threads == 1 for a in lowered.actions)
    assert lowered.notices()[0].code == "governor_lower"
    left = run(lambda: 30 * time.process_time())
    assert [a for a in left.actions if a.reason == "heat"] == []


class ScaledClock:
    """The monotonic clock at a pace of choice, without a jump where the pace changes."""

    def __init__(self, pace: float) -> None:
        self.pace, self._since, self._before = pace, time.monotonic(), 0.0

    def __call__(self) -> float:
        return self._before + self.pace * (time.monotonic() - self._since)

    def run_at(self, pace: float) -> None:
        self._before = self()
        self.pace, self._since = pace, time.monotonic()
