"""Threads and affinity on the phones' file trees."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from pedsup_testing.phones import PHONES, Access, n_cores, write_tree

from pedsup.device.cores import (
    Core,
    ThreadPlan,
    allowed_cpus,
    cpu_features,
    plan_threads,
    read_cores,
)

ALL = [pytest.param(name, id=name) for name in PHONES]


def plan(root: Path, allowed: frozenset[int]):  # type: ignore[no-untyped-def]
    return plan_threads(read_cores(allowed, root), machine="aarch64")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("access", "evidence"),
    [("open", "capacity"), ("termux", "model and frequency"), ("cpuinfo only", "model")],
)
def test_threads_go_to_the_big_cores(
    tmp_path: Path, name: str, access: Access, evidence: str
) -> None:
    phone = PHONES[name]
    root = write_tree(tmp_path, phone, access)
    found = plan(root, frozenset(range(n_cores(phone))))
    assert found.cpus == phone.big
    assert found.n_threads == len(phone.big)
    assert found.evidence == evidence


@pytest.mark.parametrize("name", ALL)
def test_with_clocks_alone_the_fastest_cluster_is_taken(tmp_path: Path, name: str) -> None:
    """Never a little core: on the Dimensity 6100+ their clocks differ by a tenth only."""
    phone = PHONES[name]
    root = write_tree(tmp_path, phone, "termux")
    (root / "proc/cpuinfo").unlink()
    found = plan(root, frozenset(range(n_cores(phone))))
    assert found.evidence == "frequency"
    assert found.cpus is not None
    assert found.cpus <= phone.big


@pytest.mark.parametrize("name", ALL)
def test_when_nothing_can_be_read_half_a_phone_at_most(tmp_path: Path, name: str) -> None:
    root = write_tree(tmp_path, PHONES[name], "nothing")
    found = plan(root, frozenset(range(n_cores(PHONES[name]))))
    assert (found.n_threads, found.cpus, found.evidence) == (4, None, "nothing")


def test_a_cpuset_of_little_cores_is_respected(tmp_path: Path) -> None:
    """In the background Android leaves an app the little cores: all of them are then 'big'."""
    root = write_tree(tmp_path, PHONES["snapdragon-695"])
    found = plan(root, frozenset({0, 1, 2, 3}))
    assert found.n_threads == 4
    assert found.cpus is None


def test_a_cpuset_that_cuts_the_big_cluster(tmp_path: Path) -> None:
    root = write_tree(tmp_path, PHONES["exynos-1380"])
    assert plan(root, frozenset({0, 1, 5, 6})).cpus == {5, 6}


def test_cores_asleep_in_cpuinfo_fall_back_to_clocks(tmp_path: Path) -> None:
    root = write_tree(tmp_path, PHONES["helio-g85"], "termux")
    text = (root / "proc/cpuinfo").read_text()
    (root / "proc/cpuinfo").write_text(text[: text.index("processor\t: 6")])
    found = plan(root, frozenset(range(8)))
    assert (found.cpus, found.evidence) == ({6, 7}, "frequency")


def test_hardware_threads_of_one_core_count_once() -> None:
    pairs = [frozenset({0, 4}), frozenset({1, 5}), frozenset({2, 6}), frozenset({3, 7})]
    cores = tuple(Core(i, capacity=1024, siblings=pairs[i % 4]) for i in range(8))
    found = plan_threads(cores, machine="x86_64")
    assert (found.n_threads, found.cpus) == (4, None)


def test_a_desktop_with_a_favoured_core_uses_all() -> None:
    cores = tuple(Core(i, max_khz=5_000_000 + (i == 2) * 100_000) for i in range(4))
    assert plan_threads(cores, machine="x86_64").n_threads == 4


@pytest.mark.parametrize("text", ["", "processor : x\nCPU part : ?\n", "\x00\xff", "a:b:c"])
def test_a_strange_cpuinfo_is_no_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(text)
    assert plan(tmp_path, frozenset({0, 1})).n_threads == 2
    assert cpu_features(tmp_path) == frozenset()


def test_features_are_what_all_cores_have(tmp_path: Path) -> None:
    dot = cpu_features(write_tree(tmp_path / "a", PHONES["dimensity-6100+"]))
    old = cpu_features(write_tree(tmp_path / "b", PHONES["snapdragon-685"]))
    assert "asimddp" in dot
    assert "asimddp" not in old


def test_really_denied_files_are_no_error() -> None:
    """As a user whom the modes deny listing and reading (root is denied nothing)."""
    with tempfile.TemporaryDirectory() as name:
        root = write_tree(Path(name), PHONES["tensor-g3"])
        root.chmod(0o755)
        folder = root / "sys/devices/system/cpu"
        for path in folder.rglob("cpu_capacity"):
            path.chmod(0)
        folder.chmod(0o311)  # enter by name, do not list
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            if os.getuid() == 0:
                os.setuid(65534)
            try:
                list(folder.iterdir())
                text = "listed"
            except PermissionError:
                text = repr(plan(root, frozenset(range(9))))
            os.write(write_end, text.encode())
            os._exit(0)
        os.close(write_end)
        os.waitpid(child, 0)
        said = os.read(read_end, 4096).decode()
        os.close(read_end)
        folder.chmod(0o755)
    expected = ThreadPlan(5, frozenset({4, 5, 6, 7, 8}), "model and frequency")
    assert said == repr(expected)


def test_this_machine_gets_at_least_one_thread_within_its_mask() -> None:
    allowed = allowed_cpus()
    found = plan_threads(read_cores(allowed))
    assert 1 <= found.n_threads <= len(allowed)
    assert found.cpus is None or found.cpus <= allowed
