"""Phone profiles, predictions and limits; the limits are real ones where this system allows it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pedsup.errors import BadFileError, UsageError
from pedsup.gguf_file import read_header
from pedsup.phones.predict import predict
from pedsup.phones.profiles import Figure, Span, profile, read_profiles, shipped_profiles
from pedsup.phones.traffic import traffic
from pedsup_bench.phone import limits


def test_every_shipped_figure_has_a_source() -> None:
    phones = shipped_profiles()
    assert "galaxy-a15-5g" in phones
    for phone in phones.values():
        assert all(len(figure["source"]) > 10 for figure in asdict(phone.figures).values())
        assert all(len(kind.source) > 10 for kind in phone.cores)
        assert (
            1 <= phone.big_cores < sum(kind.count for kind in phone.cores) == 8
            or phone.id == "tensor-g3"
        )
        assert "unverified" in phone.figures.bandwidth_gb_s.source
    assert "asimddp" not in phones["snapdragon-685"].features


def test_a_figure_without_a_source_is_refused(tmp_path) -> None:
    from importlib import resources

    text = (resources.files("pedsup.phones") / "phones.toml").read_text("utf-8")
    path = tmp_path / "p.toml"
    path.write_text(text.replace('source = "unverified: range', 'sorce = "', 1), encoding="utf-8")
    with pytest.raises(BadFileError, match=r"unknown key '.*sorce'") as error:
        read_profiles(path)
    assert "did you mean '" in str(error.value) and ", line " in str(error.value)
    with pytest.raises(UsageError, match="no phone profile"):
        profile("nokia-3310")


def test_prediction_by_hand(smollm2) -> None:
    header = read_header(smollm2)
    phone = profile("galaxy-a15-5g")
    found = predict(header, phone, n_ctx=2048, depth=512, efficiency=(0.5, 1.0))
    per_token = traffic(header).decode(512)
    assert found.bytes_per_token == per_token
    assert found.ceiling == pytest.approx((13e9 / per_token, 17e9 / per_token))
    assert found.decode == pytest.approx((0.5 * found.ceiling[0], found.ceiling[1]))
    assert found.verdict == "fits"
    assert found.to_json()["measured"] is False


def test_prediction_of_what_does_not_fit(smollm2) -> None:
    header = read_header(smollm2)
    phone = profile("helio-g85")

    def with_gib(gib: float):  # type: ignore[no-untyped-def]
        figures = replace(phone.figures, memory_available_gb=Figure(gib, "test of the refusal"))
        return predict(header, replace(phone, figures=figures), n_ctx=2048)

    whole = with_gib(4.0)
    tight = with_gib((whole.memory_needed - (50 << 20)) / (1 << 30))
    assert tight.verdict == "pages"
    # llama-server pages all weights, and with so little room some of them twice.
    weights = sum(t.n_bytes for t in header.tensors.values())
    assert tight.paging_decode is not None
    assert 250e6 / (4 * weights) < tight.paging_decode < 250e6 / weights
    assert with_gib(0.05).verdict == "refused"


def test_predicted_is_never_called_measured(smollm2, bench) -> None:
    done = bench("predict", smollm2, "--phone", "helio-g85")
    assert done.stdout.startswith("PREDICTED")
    assert "nothing here was measured on a phone" in done.stdout
    listed = bench("phones", "--sources")
    assert "unverified" in listed.stdout


# ---- limits -----------------------------------------------------------------------------


def made_tree(root: Path, version: int) -> Path:
    """A folder that looks like the control-group file system; plain files take any write."""
    if version == 2:
        (root / "cgroup.controllers").write_text("cpu io memory\n")
        (root / "cgroup.subtree_control").write_text("")
    else:
        for controller in ("memory", "cpu", "blkio"):
            (root / controller).mkdir()
    return root


def test_version_1_files_hold_the_limits(tmp_path, monkeypatch) -> None:
    root = made_tree(tmp_path, 1)
    monkeypatch.setattr(limits, "_own_group", lambda base, controller: base)
    monkeypatch.setattr(limits, "_remove", lambda folder: None)
    wanted = limits.Wanted(memory=1 << 30, cpus=1.5, read_rate=10_000_000, device="8:0")
    with limits.limited(wanted, root) as group:
        assert set(group.set) == {"memory", "cpus", "read_rate"}
        assert not group.refused
        assert len(group.procs) == 3
    (memory,) = (root / "memory").iterdir()
    assert (memory / "memory.limit_in_bytes").read_text() == f"{1 << 30}\n"
    (cpu,) = (root / "cpu").iterdir()
    assert (cpu / "cpu.cfs_quota_us").read_text() == "150000\n"
    (blkio,) = (root / "blkio").iterdir()
    assert (blkio / "blkio.throttle.read_bps_device").read_text() == "8:0 10000000\n"


def test_version_2_says_what_is_not_handed_down(tmp_path, monkeypatch) -> None:
    root = made_tree(tmp_path, 2)
    monkeypatch.setattr(limits, "_own_group", lambda base, controller: base)
    monkeypatch.setattr(limits, "_remove", lambda folder: None)
    with limits.limited(limits.Wanted(memory=1 << 20, read_rate=5), root) as group:
        # A plain folder has no memory.max: as a group whose parent does not hand memory down.
        assert "memory.max is not handed down" in group.refused["memory"]
        assert "no disk of its own" in group.refused["read_rate"]
        assert "NOT set" in group.text


def test_nowhere_to_limit_is_said(tmp_path) -> None:
    with limits.limited(limits.Wanted(memory=1, cpus=1.0), tmp_path) as group:
        assert group.version == 0
        assert group.refused == {
            "memory": "no control groups here", "cpus": "no control groups here",
        }  # fmt: skip


READER = """
import os, sys, time
for path in sys.argv[2:]:
    open(path, "w").write(str(os.getpid()))
fd = os.open(sys.argv[1], os.O_RDONLY)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
started = time.perf_counter()
while os.read(fd, 1 << 20):
    pass
print(time.perf_counter() - started)
"""
HOG = """
import os, sys
for path in sys.argv[2:]:
    open(path, "w").write(str(os.getpid()))
held = bytearray(int(sys.argv[1]))
held[::4096] = b"x" * len(held[::4096])
print("alive")
"""


def run_limited(code: str, argument: object, group: limits.Limited):  # type: ignore[no-untyped-def]
    return subprocess.run(
        [sys.executable, "-c", code, str(argument), *group.procs],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_a_memory_limit_here_kills_what_takes_more() -> None:
    with limits.limited(limits.Wanted(memory=96 << 20)) as group:
        if "memory" not in group.set:
            pytest.skip(f"no memory limit can be set here: {group.refused}")
        assert run_limited(HOG, 32 << 20, group).stdout == "alive\n"
        killed = run_limited(HOG, 256 << 20, group)
        assert killed.returncode == -9
        folders = [Path(procs).parent for procs in group.procs]
        assert all(folder.is_dir() for folder in folders)
    assert not any(folder.exists() for folder in folders)


def test_a_read_rate_here_slows_reading(tmp_path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"x" * (8 << 20))
    with path.open("rb") as file:
        import os

        os.fsync(file.fileno())
    wanted = limits.Wanted(read_rate=8 << 20, device=limits.disk_of(path))
    with limits.limited(wanted) as group:
        if "read_rate" not in group.set:
            pytest.skip(f"no read rate can be set here: {group.refused}")
        slow = run_limited(READER, path, group)
    assert slow.returncode == 0, slow.stderr
    # 8 MiB at 8 MiB/s: a second; a burst of a tenth is let through first.
    assert float(slow.stdout) > 0.6


# ---- against measurements on this machine -------------------------------------------------


@pytest.fixture(scope="module")
def own_copy(smollm2, tmp_path_factory):  # type: ignore[no-untyped-def]
    """A file that no other process maps, so that its pages can be dropped and charged to us."""
    path = tmp_path_factory.mktemp("model") / "smollm2.gguf"
    path.write_bytes(smollm2.read_bytes())
    return path


@pytest.mark.slow
def test_prediction_from_measured_bandwidth_bounds_the_measured_speed(own_copy) -> None:
    """A profile of this very machine: no measured speed passes its predicted ceiling."""
    from pedsup_bench.speed.child import measured_speed
    from pedsup_bench.speed.plan import SpeedPlan
    from pedsup_bench.stats import median

    plan = SpeedPlan(own_copy, n_threads=1, prompts=(16,), depths=(0,), n_decode=16, repeats=3)
    speed = measured_speed(plan)
    best = max(speed["bandwidth"]) / 1e9
    phone = profile("galaxy-a15-5g")
    figures = replace(phone.figures, bandwidth_gb_s=Span((best, best), "measured in this test"))
    found = predict(
        read_header(own_copy), replace(phone, figures=figures), n_ctx=speed["n_ctx"], depth=8
    )
    measured = median(speed["decode"]["0"])
    assert measured < 1.15 * found.ceiling[1]
    assert measured > 0.02 * found.ceiling[1], "slower than a crowded machine explains"
    # What it needs, in the fit's sense, is what it took (the estimate is tested more closely
    # in tests/runtime).
    took = speed["after"]["rss_anon"] + speed["after"]["rss_file"]
    assert took == pytest.approx(found.memory_needed, rel=0.35)


@pytest.mark.slow
def test_a_model_larger_than_its_limit_is_read_again_and_again(own_copy) -> None:
    """Bytes read are the steady signal of a phone that is too small."""
    from pedsup_bench.speed.measure import drop_from_cache
    from pedsup_bench.speed.plan import SpeedPlan

    plan = SpeedPlan(own_copy, n_threads=1, first_prompt=8, loads=1)
    size = own_copy.stat().st_size

    def load(cgroups: tuple[str, ...]):  # type: ignore[no-untyped-def]
        from pedsup_bench.speed.child import measured_load

        drop_from_cache(own_copy)
        return measured_load(replace(plan, cgroups=cgroups))

    free = load(())
    assert 0.5 * size < free["read_bytes"] < 1.3 * size
    with limits.limited(limits.Wanted(memory=112 << 20)) as group:
        if "memory" not in group.set:
            pytest.skip(f"no memory limit can be set here: {group.refused}")
        tight = load(group.procs)
    assert tight["read_bytes"] > 1.2 * free["read_bytes"]
    # Pages of shared libraries are charged to whoever read them first: not to this group.
    assert tight["rss_file"] < 0.8 * free["rss_file"]
    assert tight["major_faults"] > free["major_faults"]
