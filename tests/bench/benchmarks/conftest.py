"""The `latency` fixture: pytest-benchmark in CPU time, calibrated, against the baseline."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from time import process_time
from typing import Any

import pytest
from pedsup_testing import tiny_models

from pedsup.engine.api import Engine, EngineConfig, SamplingConfig

BASELINE = Path(
    os.environ.get("PEDSUP_LATENCY_BASELINE", Path(__file__).with_name("baseline.json"))
)
PLANTED = "PEDSUP_LATENCY_PLANT"
"""'decode=2' makes the figure's function take twice as long: for the test of this suite."""


def planted(figure: str, function: Callable[[], Any]) -> Callable[[], Any]:
    """The function, slowed down if the environment says so."""
    name, _, factor = os.environ.get(PLANTED, "").partition("=")
    if name != figure:
        return function

    def slow() -> Any:
        started = process_time()
        result = function()
        until = started + (process_time() - started) * float(factor)
        while process_time() < until:
            pass
        return result

    return slow


@pytest.fixture(scope="session")
def calibration():  # type: ignore[no-untyped-def]
    pytest.importorskip("numpy", reason="pip install 'pedsup[bench]'")
    from pedsup_maintain.latency import Calibration

    return Calibration()


@pytest.fixture
def latency(benchmark, calibration, request, record_property):  # type: ignore[no-untyped-def]
    """latency(figure, function, setup=..., rounds=...): measure, normalise, compare or store."""
    from pedsup_bench.speed import device
    from pedsup_maintain.latency import judge, normalised, read_baseline, update_baseline

    def measure(
        figure: str,
        function: Callable[[], Any],
        *,
        setup: Callable[[], Any] = lambda: None,
        rounds: int = 5,
    ) -> Any:
        kernel: list[float] = []

        def before() -> None:
            setup()
            kernel.append(calibration.run())

        result = benchmark.pedantic(
            planted(figure, function), setup=before, rounds=rounds, warmup_rounds=1
        )
        if benchmark.disabled or benchmark.stats is None:
            return result  # --benchmark-disable: run once, measure nothing
        kernel.append(calibration.run())
        value = normalised(benchmark.stats.stats.data, kernel)
        machine = device.describe()["soc"] or "unknown"
        benchmark.extra_info.update(figure=figure, kernels=value, kernel_s=min(kernel))
        if request.config.getoption("--update-latency-baseline"):
            update_baseline(BASELINE, machine, {figure: value})
            return result
        outcome, sentence = judge(read_baseline(BASELINE), machine, figure, value)
        record_property("latency", sentence)
        print(sentence)
        if outcome == "fail":
            pytest.fail(sentence, pytrace=False)
        return result

    return measure


@pytest.fixture(scope="session")
def engine_config(smollm2: Path) -> EngineConfig:
    """One thread: CPU time is then the time of the work, not of threads that wait."""
    return EngineConfig(smollm2, n_ctx=512, n_threads=1, n_threads_batch=1)


@pytest.fixture(scope="session")
def engine(engine_config: EngineConfig) -> Iterator[Engine]:
    from pedsup.engine.select import open_engine

    loaded = open_engine(engine_config, "inprocess")
    yield loaded
    loaded.close()


@pytest.fixture(scope="session")
def greedy(engine: Engine) -> SamplingConfig:
    return SamplingConfig(temperature=0.0, banned=tuple(sorted(engine.info.end_of_generation)))


@pytest.fixture(scope="session")
def text_tokens(engine: Engine) -> list[int]:
    from pedsup_bench.report.texts import default_texts

    return engine.tokenize(default_texts()[0].content, parse_special=False)


@pytest.fixture(scope="session")
def export_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama of 19 M weights, float32."""
    pytest.importorskip("transformers", reason="pip install 'pedsup[train]'")
    return tiny_models.llama(
        tmp_path_factory.mktemp("base"), hidden_size=512, intermediate_size=1536,
        num_hidden_layers=6,
    )  # fmt: skip
