"""The search on simulated devices, the file that keeps its result, and real children."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pedsup_testing.phones import PHONES, n_cores, write_tree

from pedsup.child.death import ended
from pedsup.device.cores import plan_threads, read_cores
from pedsup.device.noise import Series, beats
from pedsup.engine.api import EngineConfig
from pedsup.errors import BadFileError
from pedsup.files.records import record
from pedsup.gguf_file import read_header
from pedsup.memory import Available, Host, Room
from pedsup.messages import message
from pedsup.run.plan import plan_launch
from pedsup.settings.load import given_names
from pedsup.settings.schema import Settings
from pedsup.tuning.apply import apply_tuned, origin_text
from pedsup.tuning.bench import ChildBench
from pedsup.tuning.budget import Lengths, lengths_for, long_prompts
from pedsup.tuning.fingerprint import device_digest, engine_digest
from pedsup.tuning.plan import (
    Candidate,
    Failure,
    Metric,
    Speed,
    TunePlan,
    make_plan,
    thread_counts,
)
from pedsup.tuning.report import document, report_lines
from pedsup.tuning.results import Outcome
from pedsup.tuning.search import NothingMeasuredError, Search
from pedsup.tuning.store import NAMES, Tuned, keep, look_up, read_entries
from pedsup.tuning.worker import FROM_PARENT, First, config_to_json

# ---- noise ----


def test_series_against_known_values() -> None:
    series = Series((9.0, 10.0, 10.0, 11.0, 50.0))
    assert series.median == 10.0
    assert series.noise == pytest.approx(1.4826 * 1.0 / 10)  # MAD of 1, 0, 0, 1, 40 is 1
    assert Series((9.0, 10.0, 11.0)).error == pytest.approx(1.2533 * 1.0 / 10 / 3**0.5)


@pytest.mark.parametrize(
    ("challenger", "champion", "expected"),
    [
        ([11, 11.1, 10.9], [10, 10.1, 9.9], True),
        ([10.2, 10.3, 10.1], [10, 10.1, 9.9], False),  # 2 %: not worth it
        ([14, 9, 12], [10, 11, 10], False),  # 20 %, but within the noise
        ([11, 22, 5.5], [10, 20, 5], True),  # rounds differ, ratios do not
        ([30], [10], True),  # threefold: one round tells
        ([15, 15], [10, 10], False),
        ([], [10], False),
        ([0.0, 1, 1], [1, 1, 1], False),
    ],
)
def test_beats(challenger: list[float], champion: list[float], expected: bool) -> None:
    assert beats(challenger, champion) is expected


# ---- plan ----


def test_thread_counts_are_coarse_and_within_the_cores() -> None:
    assert thread_counts(2, 8) == (1, 2, 3, 4, 5, 8)
    assert thread_counts(4, 8) == (2, 3, 4, 5, 6, 8)
    assert thread_counts(1, 1) == (1,)


def phone_plan(
    tmp_path: Path, name: str, model: Path, seconds: float = 120, memory: int = 8 << 30
) -> TunePlan:
    phone = PHONES[name]
    cores = read_cores(frozenset(range(n_cores(phone))), write_tree(tmp_path / name, phone))
    threads = plan_threads(cores, machine="aarch64")
    room = Room(read_header(model), Available(memory, "a test"), Host(frozenset({"asimddp"})))
    base = EngineConfig(model, n_threads=threads.n_threads, cpus=threads.cpus)
    return make_plan(base, threads, cores, room, seconds)


def test_the_plan_of_a_phone(tmp_path: Path, smollm2: Path) -> None:
    plan = phone_plan(tmp_path, "dimensity-6100+", smollm2)
    assert plan.base.pin
    assert plan.cpus == {6, 7}
    names = [stage.name for stage in plan.stages]
    assert names == ["threads", "pin", "extra_buffers", "ubatch", "mmap"]
    for change in plan.stages[0].changes:
        assert change["pin"] is (change["threads"] <= 2)
    assert any("threads 8" in line for line in plan.lines())


def test_little_memory_leaves_out_what_would_not_fit(tmp_path: Path, smollm2: Path) -> None:
    plan = phone_plan(tmp_path, "dimensity-6100+", smollm2, memory=100 << 20)
    assert {name for name, _ in plan.skipped} == {"extra_buffers", "mmap"}


# ---- search on simulated devices ----


@dataclass
class Simulated:
    """A device whose speeds a function gives; its clock is that of the measurements."""

    speed: Callable[[Candidate], Speed | Failure]
    noise: float = 0.01
    each_s: float | None = None
    """None: as long as so many tokens take at this speed."""
    lengths: Lengths = field(default_factory=lambda: Lengths(16, 4))
    now: float = 0.0
    draw: random.Random = field(default_factory=lambda: random.Random(1))
    measured: list[Candidate] = field(default_factory=list)

    def measure(self, candidate: Candidate, metric: Metric) -> Speed | Failure:
        self.measured.append(candidate)
        speed = self.speed(candidate)
        if isinstance(speed, Failure):
            self.now += self.each_s or 1.0
            return speed
        self.now += self.each_s or self.lengths.seconds(metric, speed)
        prompt = speed.prompt * self.draw.lognormvariate(0, self.noise)
        return Speed(prompt, speed.decode * self.draw.lognormvariate(0, self.noise))

    def start_stage(self, lengths: Lengths, usual: Speed) -> None:
        assert usual.decode > 0
        self.lengths = lengths

    def load_s(self, candidates: Sequence[Candidate]) -> float:
        return 0.0

    def search(self, plan: TunePlan) -> Outcome:
        return Search(plan, self, clock=lambda: self.now).run()


@pytest.fixture
def a15(tmp_path: Path, smollm2: Path) -> TunePlan:
    """Two big cores and six little ones."""
    return phone_plan(tmp_path, "dimensity-6100+", smollm2)


@pytest.fixture
def patient(a15: TunePlan) -> TunePlan:
    """With time for long prompts on a device of some tokens per second."""
    return replace(a15, seconds=600.0)


def test_threads_past_the_big_cores_that_collapse_are_not_pursued(a15: TunePlan) -> None:
    """llama.cpp #21763: a hundredth of the speed."""
    device = Simulated(
        lambda c: (
            Speed(40, 10) if c.threads == 2 else Speed(22, 6) if c.threads < 2 else Speed(0.4, 0.1)
        )
    )
    outcome = device.search(a15)
    assert (outcome.best.threads, outcome.best.threads_batch, outcome.best.pin) == (2, 2, True)
    tried = {c.threads for c in device.measured}
    assert tried == {1, 2, 3}  # 4, 5 and 8 are never suffered
    assert outcome.stages[0].reason == "kept"


def test_more_threads_than_big_cores_when_measured_better(a15: TunePlan) -> None:
    device = Simulated(lambda c: Speed(20 * c.threads_batch**0.5, 5 + min(c.threads, 4)))
    best = device.search(a15).best
    assert best.threads in (4, 5)
    assert best.threads_batch == 8
    assert not best.pin


def test_a_gain_within_the_noise_changes_nothing(a15: TunePlan) -> None:
    changed = 0
    for seed in range(100):
        device = Simulated(lambda c: Speed(40, 10.2 if c.threads == 4 else 10), noise=0.06)
        device.draw = random.Random(seed)
        changed += device.search(a15).best != a15.base
    # 13 alternatives each, about one in a hundred of which is taken by luck.
    assert changed <= 15


def test_a_child_that_dies_is_a_result(patient: TunePlan) -> None:
    died = Failure(ended(-signal.SIGSEGV))
    device = Simulated(lambda c: died if c.extra_buffers else Speed(40 + (c.ubatch == 128) * 9, 10))
    outcome = device.search(patient)
    results = {result.stage.name: result for result in outcome.stages}
    assert results["extra_buffers"].reason == "failed"
    assert results["extra_buffers"].rows[1].failure == died.reason
    assert outcome.best.ubatch == 128  # it went on
    assert any("SIGSEGV" in line for line in report_lines(patient, outcome))
    assert (
        json.loads(json.dumps(document(patient, outcome, "e", None)))["settings"]["ubatch"] == 128
    )


def test_a_champion_that_fails_midway_is_no_fault_of_the_alternatives(a15: TunePlan) -> None:
    """Another program takes the cores for a while: nothing is concluded from that."""
    device = Simulated(lambda c: Speed(40, 10))
    late = Failure(message("no answer within {s} s", s=9))
    device.speed = lambda c: late if 40 < device.now < 90 else Speed(40, 10)
    outcome = device.search(a15)
    assert outcome.best == a15.base
    assert "disturbed" in {result.reason for result in outcome.stages}
    assert "run tune again" in "\n".join(report_lines(a15, outcome))


def test_a_slow_phone_decides_what_it_can_and_says_what_all_needs(a15: TunePlan) -> None:
    """E2B on a budget phone: two minutes are enough for all but batches."""
    outcome = Simulated(lambda c: Speed(15, 5)).search(a15)
    reasons = {result.stage.name: result.reason for result in outcome.stages}
    assert {name for name, why in reasons.items() if why == "no time"} == {"ubatch"}
    assert outcome.seconds <= 120
    batches = next(result for result in outcome.stages if result.stage.name == "ubatch")
    assert all(row.untried for row in batches.rows)  # not begun only to be broken off
    advised = outcome.advised_s
    assert advised is not None and 120 < advised <= 900 and advised % 60 == 0
    assert f"--seconds {advised}" in "\n".join(report_lines(a15, outcome))
    patient = replace(a15, seconds=float(advised))
    assert Simulated(lambda c: Speed(15, 5)).search(patient).advised_s is None


@pytest.mark.parametrize(
    ("speed", "seconds", "n_prompt", "n_decode"),
    [
        (Speed(350, 125), 120, 247, 64),  # 0.7 s of each
        (Speed(350, 125), 600, 350, 64),  # never more than a second of it
        (Speed(15, 5), 120, 16, 4),  # the shortest that tell anything
    ],
)
def test_lengths_of_measurements(
    speed: Speed, seconds: float, n_prompt: int, n_decode: int
) -> None:
    assert lengths_for(speed, seconds) == Lengths(n_prompt, n_decode)


@pytest.mark.parametrize(
    ("seconds", "n_long"), [(600, 512), (250, 512), (120, 256), (40, 128), (5, 128)]
)
def test_long_prompts_hold_more_than_the_steps_they_compare(seconds: float, n_long: int) -> None:
    """At 40 tokens/s. One step holds a prompt of 128 tokens as well as any larger step would."""
    usual = Speed(40, 10)
    found = long_prompts(lengths_for(usual, 600), usual, (256, 128, 64), seconds)
    assert found.n_long == n_long


def test_repack_is_taken_when_it_is_better(a15: TunePlan) -> None:
    device = Simulated(lambda c: Speed(60 if c.extra_buffers else 40, 10))
    best = device.search(a15).best
    assert best.extra_buffers
    assert best.settings()["extra_buffers"] == "on"


@pytest.mark.parametrize("each_s", [0.5, 3.0, 20.0, 400.0])
def test_the_time_is_kept(a15: TunePlan, each_s: float) -> None:
    device = Simulated(lambda c: Speed(40, 10), each_s=each_s)
    outcome = device.search(a15)
    # What is begun is finished: one measurement per stage and the first at most.
    assert outcome.seconds <= a15.seconds + each_s * (1 + len(a15.stages))
    if each_s > 10:
        assert {result.reason for result in outcome.stages} >= {"no time"}


def test_a_device_that_runs_nothing(a15: TunePlan) -> None:
    with pytest.raises(NothingMeasuredError, match="SIGILL"):
        Simulated(lambda c: Failure(message("SIGILL"))).search(a15)


def test_a_device_that_speeds_up_and_slows_down_favours_none(a15: TunePlan) -> None:
    """Interleaved rounds: a drift of a half within two minutes chooses nothing."""
    device = Simulated(lambda c: Speed(40, 10))
    device.speed = lambda c: Speed(40 * (1 - device.now / 240), 10 * (1 - device.now / 240))
    assert device.search(a15).best == a15.base


@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 10**6), noise=st.sampled_from([0.0, 0.02, 0.1, 0.3]))
def test_any_device_more_threads_only_when_measured_better(
    a15: TunePlan, seed: int, noise: float
) -> None:
    draw = random.Random(seed)
    table: dict[Any, Speed | Failure] = {}

    def speed(candidate: Candidate) -> Speed | Failure:
        if candidate not in table:
            dead = draw.random() < 0.1 and candidate != a15.base
            table[candidate] = (
                Failure(message("died"))
                if dead
                else Speed(draw.uniform(5, 50), draw.uniform(1, 20))
            )
        return table[candidate]

    outcome = Simulated(speed, noise=noise, draw=random.Random(seed)).search(a15)
    best = outcome.best
    assert not isinstance(table[best], Failure)
    if best.threads > a15.n_big:
        rows = {row.candidate: row for row in outcome.stages[0].rows}
        champion = rows[a15.base].series("decode").values
        winner = next(r for c, r in rows.items() if c.threads == best.threads)
        speeds = winner.series("decode").values
        assert len(speeds) >= 4
        # A champion left out after the screening was beaten there: one round, so twice as fast.
        left_out = len(champion) == 1 and speeds[1] >= 2 * champion[0]
        assert beats(speeds[1:], champion[1:]) or left_out
    if best.pin:
        assert max(best.threads, best.threads_batch) <= a15.n_big


# ---- the file ----


def entry(**more: Any) -> Tuned:
    values = {
        "model": "m" * 64, "device": "d", "engine": "e", "engine_name": "llama", "measured": "2026",
        "settings": {"threads": 3, "pin": "off", "extra_buffers": "on", "mmap": False},
        "decode_tps": 9.5, "prompt_tps": 40.0, "noise": 0.02, **more,
    }  # fmt: skip
    return Tuned(**values)


def test_what_was_tuned_is_said_as_on_the_command_line() -> None:
    assert entry().summary() == "threads 3, pin off, extra-buffers on, mmap off"


def test_what_is_kept_is_found_again_and_private(tmp_path: Path) -> None:
    file = tmp_path / "config/tuned.json"
    assert keep(entry(), file) == file
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert look_up("m" * 64, "d", "e", file).tuned == entry()
    keep(entry(decode_tps=10.0), file)
    keep(entry(model="n"), file)
    assert [e.decode_tps for e in read_entries(file)] == [10.0, 9.5]


@pytest.mark.parametrize(
    ("device", "engine", "stale"), [("d", "new", "engine"), ("x", "e", "device")]
)
def test_another_engine_or_device_invalidates(
    tmp_path: Path, device: str, engine: str, stale: str
) -> None:
    file = tmp_path / "tuned.json"
    keep(entry(), file)
    found = look_up("m" * 64, device, engine, file)
    assert (found.tuned, found.stale) == (None, stale)
    assert look_up("other", "d", "e", file).stale is None


def test_only_so_many_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "tuned.json"
    keep(entry(), file)
    document = json.loads(file.read_text())
    document["entries"] = [{**document["entries"][0], "model": str(n)} for n in range(70)]
    file.write_text(json.dumps(document))
    keep(entry(model="new"), file)
    assert [e.model for e in read_entries(file)] == [*(str(n) for n in range(7, 70)), "new"]


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"threads": 100000}}, {"settings": {"threads": "2"}},
        {"settings": {"history_dir": "/"}}, {"settings": {"threads": True}}, {"settings": []},
        {"noise": "0"}, {"model": 1}, {"settings": {"batch": 1 << 40}},
    ],
)  # fmt: skip
def test_a_forged_value_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    file = tmp_path / "tuned.json"
    keep(entry(), file)
    data = json.loads(file.read_text())
    data["entries"][0].update(change)
    file.write_text(json.dumps(data))
    with pytest.raises(BadFileError):
        read_entries(file)
    found = look_up("m" * 64, "d", "e", file)
    assert found.tuned is None
    assert found.problem
    keep(entry(), file)  # and it is written anew
    assert read_entries(file) == [entry()]


def test_a_configuration_reaches_the_child_whole() -> None:
    config = EngineConfig(Path("/m"), n_ctx=99, cpus=frozenset({1, 3}), extra_buffers=True)
    sent = json.dumps({"config": config_to_json(config), "engine": "auto"})
    assert record(First, json.loads(sent), FROM_PARENT).config == config


@hypothesis_settings(max_examples=100, deadline=None)
@given(raw=st.one_of(st.binary(max_size=200), st.just(b"[" * 200000), st.builds(
    lambda e: json.dumps({"schema": "pedsup-tuned/1", "entries": e}).encode(),
    st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5),
                 lambda x: st.lists(x, max_size=3)
                 | st.dictionaries(st.text(max_size=5), x, max_size=3)),
)))  # fmt: skip
def test_no_bytes_make_the_lookup_fail(
    raw: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("t") / "tuned.json"
    file.write_bytes(raw)
    assert look_up("m", "d", "e", file).tuned is None


# ---- who wins ----


def test_command_line_then_file_then_tuned_then_default() -> None:
    lookup = replace(look_up("", "", ""), tuned=entry(
        settings={"threads": 3, "threads_batch": 6, "pin": "off", "ubatch": 128, "mmap": False}
    ))  # fmt: skip
    given_: dict[str, Any] = {"ubatch": "settings file", "mmap": "command line"}
    done = apply_tuned(Settings(ubatch=64), given_, lookup)
    assert (done.settings.threads, done.settings.threads_batch) == (3, 6)
    assert (done.settings.ubatch, done.settings.mmap) == (64, True)
    assert done.origins["threads"] == "tuned"
    assert "ubatch: settings file" in origin_text(done.origins)
    assert "batch, extra-buffers: default" in origin_text(done.origins)
    own = apply_tuned(Settings(threads=1), {"threads": "command line"}, lookup).settings
    assert (own.threads, own.threads_batch, own.pin) == (1, None, "auto")
    off = apply_tuned(Settings(tuned=False), {}, lookup)
    assert off.settings == Settings(tuned=False)


def test_a_program_s_own_values_win_too() -> None:
    assert given_names(Settings(threads=2, mmap=False)) == {
        "threads": "a program", "mmap": "a program",
    }  # fmt: skip


def here(model: Path) -> dict[str, str]:
    """The identity that `tune` would keep an entry under."""
    from pedsup.device.cores import allowed_cpus, cpu_features
    from pedsup.trust.identity import identify

    return {
        "model": identify(read_header(model)).digest,
        "device": device_digest(read_cores(allowed_cpus()), cpu_features()),
        "engine": engine_digest(server=False),
    }


def test_a_launch_uses_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smollm2: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    chosen = {"threads": 1, "threads_batch": 2, "pin": "off", "batch": 256, "ubatch": 64,
              "extra_buffers": "off", "mmap": False}  # fmt: skip
    assert set(chosen) == set(NAMES)
    keep(entry(**here(smollm2), settings=chosen))
    plenty = Available(8 << 30, "a test")
    plan = plan_launch(smollm2, Settings(), available=plenty)
    config = plan.config
    assert (config.n_threads, config.n_threads_batch) == (1, 2)
    assert (config.n_batch, config.n_ubatch, config.use_mmap) == (256, 64, False)
    assert plan.threads.evidence == "tuned"
    plain = plan_launch(smollm2, Settings(tuned=False), available=plenty).config
    assert (plain.n_ubatch, plain.use_mmap) == (512, True)
    asked = plan_launch(smollm2, Settings(threads=2), available=plenty)
    assert asked.config.n_threads == 2
    assert (asked.threads.cpus, asked.threads.evidence) == (None, "asked for")


def test_measured_repack_is_dropped_when_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smollm2: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    keep(entry(**here(smollm2), settings={"extra_buffers": "on", "mmap": False}))
    short = plan_launch(smollm2, Settings(ctx=512), available=Available(150 << 20, "a test"))
    assert (short.config.extra_buffers, short.config.use_mmap) == (False, True)
    asked = Settings(ctx=512, extra_buffers="on")
    kept = plan_launch(smollm2, asked, available=Available(150 << 20, "a test"))
    assert kept.config.extra_buffers  # what was asked for is not dropped silently


# ---- real children ----


@pytest.fixture
def bench(smollm2: Path):  # type: ignore[no-untyped-def]
    made = ChildBench(
        base=EngineConfig(smollm2, n_ctx=512, n_threads=1, n_threads_batch=1),
        engine="inprocess", header=read_header(smollm2), host=Host(), cpus=None,
        most_threads=1, seconds=4,
    )  # fmt: skip
    yield made
    made.close()


PLAIN = Candidate(1, 1, pin=False, batch=512, ubatch=512, extra_buffers=False, mmap=True)


def test_a_real_child_measures_and_its_death_is_a_result(bench: ChildBench) -> None:
    speed = bench.measure(PLAIN, "turn")
    assert isinstance(speed, Speed)
    assert speed.prompt > 1
    assert speed.decode > 1
    assert bench.engine_name.startswith("llama-cpp-python")
    ((_, child),) = bench._children.items()
    os.kill(child.process.pid, signal.SIGILL)
    died = bench.measure(PLAIN, "turn")
    assert isinstance(died, Failure)
    assert "SIGILL" in died.reason
    assert bench.measure(PLAIN, "turn") == died  # not loaded again and again
    other = bench.measure(replace(PLAIN, mmap=False), "turn")
    assert isinstance(other, Speed)
    assert bench.n_loads == 2
    bench.close()
    assert child.process.returncode == -signal.SIGILL


def test_a_server_that_dies_at_its_start_is_a_result(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\nkill -ILL $$\n")
    program.chmod(0o755)
    monkeypatch.setenv("PEDSUP_LLAMA_SERVER", str(program))
    made = ChildBench(
        base=EngineConfig(smollm2, n_ctx=512), engine="server", header=read_header(smollm2),
        host=Host(server=True), cpus=None, most_threads=1, seconds=4,
    )  # fmt: skip
    died = made.measure(PLAIN, "turn")
    made.close()
    assert isinstance(died, Failure)
    assert "SIGILL" in died.reason


def test_what_does_not_fit_is_not_loaded(
    bench: ChildBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pedsup.tuning.bench.available_memory", lambda: Available(50 << 20, "test"))
    died = bench.measure(PLAIN, "turn")
    assert isinstance(died, Failure)
    assert "memory" in died.reason
    assert bench.n_loads == 0


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["inprocess", "server"])
def test_the_command_and_the_run_that_uses_it(
    smollm2: Path, tmp_path: Path, native_tool: Callable[[str], Path], engine: str
) -> None:
    """One core, so that nothing waits for another on a busy machine."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "XDG_CONFIG_HOME": str(tmp_path),
           "PEDSUP_LLAMA_SERVER": str(native_tool("llama-server"))}  # fmt: skip

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["taskset", "-c", "0", sys.executable, "-m", "pedsup", *map(str, words)],
            capture_output=True, text=True, env=env, check=True,
        )  # fmt: skip

    dry = run("tune", smollm2, "--dry-run", "--engine", engine)
    assert "ubatch" in dry.stdout
    assert not (tmp_path / "pedsup").exists()
    done = json.loads(run("tune", smollm2, "--seconds", 5, "--json", "--engine", engine).stdout)
    assert done["schema"] == "pedsup-tune/1"
    assert done["settings"]["threads"] == 1
    check = json.loads(run(smollm2, "--check", "--json", "--engine", engine).stdout)
    assert set(check["origins"].values()) == {"tuned"}
    own = json.loads(run(smollm2, "--check", "--json", "--engine", engine, "--ubatch", 32).stdout)
    assert own["origins"]["ubatch"] == "command line"
    other = {"inprocess": "server", "server": "inprocess"}[engine]
    stale = json.loads(run(smollm2, "--check", "--json", "--engine", other).stdout)
    assert stale["tuned_problem"] == "engine"
