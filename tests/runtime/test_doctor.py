"""The doctor on made devices: every file may be missing, denied, garbage or a pipe."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pedsup_testing import programs
from pedsup_testing.phones import PHONES, n_cores, write_tree

from pedsup.child.bounded import Ran, run_bounded
from pedsup.doctor import android, engines, processor, resources
from pedsup.doctor.device import Device, read_properties
from pedsup.doctor.examine import SCHEMA, Examination, examine
from pedsup.doctor.finding import Finding
from pedsup.doctor.model import model_fit
from pedsup.doctor.texts import TEXTS, TOPICS
from pedsup.settings.schema import Settings

PROBED = (
    "proc/cpuinfo", "proc/meminfo", "proc/swaps", "proc/self/mountinfo", "proc/self/cgroup",
    "proc/device-tree/model", "sys/firmware/devicetree/base/model",
    "sys/devices/system/cpu/cpu0/cpu_capacity",
    "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq",
    "sys/devices/system/cpu/cpu0/topology/thread_siblings_list",
    "sys/class/thermal/thermal_zone0/type", "sys/class/thermal/thermal_zone0/temp",
    "sys/class/power_supply/battery/temp", "sys/fs/cgroup/memory.max",
    "sys/fs/cgroup/memory/memory.limit_in_bytes",
)  # fmt: skip


def silent(command: Sequence[str], timeout_s: float) -> Ran | None:
    """No command answers."""
    return None


def device(root: Path, **more: Any) -> Device:
    """A phone without commands unless given."""
    values = {
        "root": root, "environ": {"PATH": "/nowhere"}, "run": silent, "machine": "aarch64",
        "page_size": 4096, "cpus": frozenset({0, 1}), **more,
    }  # fmt: skip
    return Device(**values)


def keys(findings: Sequence[Finding]) -> list[str]:
    return [finding.key for finding in findings]


def look(made: Device, file: Path | None = None) -> Examination:
    return examine(made, file, Settings(tuned=False))


def checked(found: Examination) -> Mapping[str, Any]:
    """Every finding can be said in both languages and written as JSON."""
    for language in ("en", "es"):
        document = json.loads(json.dumps(found.document(language)))
        assert document["schema"] == SCHEMA
        assert {f["level"] for f in document["findings"]} <= {"ok", "note", "problem"}
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", found.text(language))
    return document


# ---- words ----


def test_no_text_is_unused() -> None:
    folder = Path(processor.__file__).parent
    files = [p for p in folder.glob("*.py") if p.name != "texts.py"]
    files.append(folder.parent / "cli/commands/doctor.py")
    source = "".join(p.read_text("utf-8") for p in files)
    assert [key for key in TEXTS if f'"{key}"' not in source] == []
    assert [topic for topic in TOPICS if f'"{topic}"' not in source] == []


# ---- processor ----


@pytest.mark.parametrize("name", PHONES)
def test_cores_of_the_phones(tmp_path: Path, name: str) -> None:
    phone = PHONES[name]
    made = device(write_tree(tmp_path, phone), cpus=frozenset(range(n_cores(phone))))
    (found,) = processor.cores(made)
    assert found.values["n_big"] == len(phone.big)
    for cluster in phone.clusters:
        assert f"{cluster.count} x " in found.values["clusters"]
        assert f"{cluster.max_khz / 1e6:.2f} GHz" in found.values["clusters"]


def test_a_core_without_dotprod_says_which_builds_die(tmp_path: Path) -> None:
    old = device(write_tree(tmp_path / "a", PHONES["snapdragon-685"]))
    new = device(write_tree(tmp_path / "b", PHONES["tensor-g3"]))
    assert keys(processor.features(old)) == ["features", "no_dotprod"]
    assert "SIGILL" in processor.features(old)[1].found("es")
    (found,) = processor.features(new)
    assert found.values["names"] == "dotprod, i8mm, SVE, SVE2, fp16, bf16"


def test_the_chip_from_whatever_tells_it(tmp_path: Path) -> None:
    properties = {"ro.soc.manufacturer": "QTI", "ro.soc.model": "SM6375", "ro.board.platform": "x"}
    assert processor.chip(device(tmp_path, properties=properties))[0].values["name"] == (
        "QTI SM6375, x"
    )
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_bytes(b"Raspberry Pi 5\x00")
    assert processor.chip(device(tmp_path))[0].values["name"] == "Raspberry Pi 5"
    assert keys(processor.chip(device(tmp_path, machine="armv8l"))) == ["chip", "bits32"]


def test_fewer_cores_than_the_chip_has_are_said(tmp_path: Path) -> None:
    """In the background Android leaves the little cores."""
    root = write_tree(tmp_path, PHONES["snapdragon-695"])
    found = processor.cores(device(root, cpus=frozenset({0, 1, 2, 3})))
    assert (found[1].key, found[1].values["present"]) == ("cores_fewer", 8)


@pytest.mark.parametrize(("size", "key"), [(4096, "page"), (16384, "page_large")])
def test_page_sizes(tmp_path: Path, size: int, key: str) -> None:
    assert keys(processor.page(device(tmp_path, page_size=size))) == [key]


# ---- memory, storage, heat ----


def put(root: Path, name: str, text: str | bytes) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize(
    ("available_kb", "key"), [(2_500_000, "memory"), (900_000, "memory_short")]
)
def test_memory_of_a_phone(tmp_path: Path, available_kb: int, key: str) -> None:
    put(tmp_path, "proc/meminfo", f"MemTotal: 3800000 kB\nMemAvailable: {available_kb} kB\n"
        "SwapTotal: 2000000 kB\nSwapFree: 100000 kB\n")  # fmt: skip
    put(tmp_path, "proc/swaps", "Filename\n/dev/block/zram0 partition\n")
    assert keys(resources.memory(device(tmp_path))) == [key]
    (swap,) = resources.swap(device(tmp_path))
    assert (swap.key, swap.values["kind"]) == ("swap_full", "zram")


def test_a_model_on_shared_storage_is_said(tmp_path: Path) -> None:
    file = tmp_path / "storage/model.gguf"
    put(tmp_path, "storage/model.gguf", os.urandom(5 << 20))
    put(tmp_path, "proc/self/mountinfo",
        "22 1 254:0 / / rw - ext4 /dev/a rw\n"
        f"40 22 0:40 / {tmp_path}/storage rw - fuse /dev/fuse rw\n")  # fmt: skip
    found = {f.key: f for f in resources.storage(device(tmp_path), file)}
    assert found["storage_fuse"].values["kind"] == "fuse"
    assert found.keys() & {"storage_speed", "storage_slow"}


def test_read_rate_reads_the_file(tmp_path: Path) -> None:
    put(tmp_path, "small", b"x" * 1000)
    put(tmp_path, "large", os.urandom(8 << 20))
    assert resources.read_rate(tmp_path / "small") is None
    assert (resources.read_rate(tmp_path / "large") or 0) > 0


def test_a_folder_that_cannot_be_written_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    assert "storage_denied" in keys(resources.storage(device(tmp_path), None))


# ---- Android ----


def phone_with(sdk: int, **more: Any) -> Device:
    release = {30: "11", 31: "12", 34: "14", 35: "15"}[sdk]
    properties = {"ro.build.version.sdk": str(sdk), "ro.build.version.release": release}
    return device(Path("/nowhere"), properties={**properties, **more.pop("properties", {})}, **more)


OVERRIDE = "persist.sys.fflag.override.settings_enable_monitor_phantom_procs"


@pytest.mark.parametrize(
    ("sdk", "properties", "key"),
    [
        (30, {}, "phantom_none"),
        (31, {}, "phantom_12"),
        (34, {}, "phantom_14"),
        (35, {OVERRIDE: "true"}, "phantom_14"),
        (35, {OVERRIDE: "false"}, "phantom_off"),
    ],
)
def test_the_phantom_process_limit(sdk: int, properties: dict[str, str], key: str) -> None:
    (found,) = android.phantom(phone_with(sdk, properties=properties))
    assert found.key == key
    if key == "phantom_14":
        assert "Disable child process restrictions" in (found.remedy("es") or "")
        assert "adb shell" in (found.remedy("en") or "")


def test_a_raised_limit_that_can_be_read(tmp_path: Path) -> None:
    for name in ("settings", "device_config"):
        put(tmp_path, f"system/bin/{name}", "")
        (tmp_path / "system/bin" / name).chmod(0o755)

    def answers(command: Sequence[str], timeout_s: float) -> Ran | None:
        denied = Ran(255, "Permission denial: reading device config\n")
        return Ran(0, "2147483647\n") if "device_config" in command[0] else denied

    made = phone_with(31)
    made = Device(root=tmp_path, environ={"PATH": "/x"}, run=answers, properties=made.properties)
    assert keys(android.phantom(made)) == ["phantom_off"]


def test_not_android_says_nothing_of_it(tmp_path: Path) -> None:
    made = device(tmp_path)
    assert [*android.phantom(made), *android.battery(made), *android.termux(made)] == []


@pytest.mark.parametrize(
    ("environ", "key"),
    [
        ({"TERMUX_VERSION": "0.118.1", "TERMUX_APK_RELEASE": "F_DROID"}, "termux"),
        ({"TERMUX_VERSION": "googleplay.2025.01.18"}, "termux_play"),
        ({"TERMUX_APP__APK_RELEASE": "GOOGLE_PLAY_STORE"}, "termux_play"),
        ({}, "termux_unknown"),
    ],
)
def test_where_termux_is_from(environ: dict[str, str], key: str) -> None:
    assert keys(android.termux(phone_with(34, environ={"PATH": "/x", **environ}))) == [key]


def test_properties_are_what_getprop_prints(tmp_path: Path) -> None:
    put(tmp_path, "bin/getprop", "#!/bin/sh\necho '[ro.soc.model]: [MT6835]'\necho '[x]: []'\n")
    (tmp_path / "bin/getprop").chmod(0o755)
    made = device(tmp_path, environ={"PATH": str(tmp_path / "bin")}, run=run_bounded)
    assert read_properties(made) == {"ro.soc.model": "MT6835", "x": ""}


# ---- commands and engines ----


def script(folder: Path, name: str, body: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("#!/bin/sh\n" + body)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("echo out; echo err >&2; exit 3", Ran(3, "out\nerr\n")),
        ("kill -ILL $$", Ran(-4, "")),
        ("sleep 600", None),
        ("sleep 600 & sleep 600", None),
        ("exec 1>&- 2>&-; sleep 600", None),
    ],
)
def test_commands_end(tmp_path: Path, body: str, expected: Ran | None) -> None:
    assert run_bounded([str(script(tmp_path, "c", body))], 0.5) == expected


def test_a_command_that_floods_or_is_absent(tmp_path: Path) -> None:
    assert run_bounded(["yes"], 60.0) is None
    assert run_bounded([str(tmp_path / "absent")], 0.5) is None
    assert run_bounded(["a\0b"], 0.5) is None


@pytest.mark.parametrize(
    ("body", "key", "word"),
    [
        ("echo 'version: 10516 (abc)' >&2", "engine", "10516"),
        ("kill -ILL $$", "engine_died", "SIGILL"),
        ("kill -SEGV $$", "engine_died", "SIGSEGV"),
        ("echo 'CANNOT LINK EXECUTABLE: library not found'; exit 1", "engine_died", "CANNOT LINK"),
        ("exec sleep 600", "engine_slow", "llama-server"),
        ("head -c 200000 /dev/urandom", "engine_died", "exit code"),
    ],
)
def test_what_a_llama_server_may_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, key: str, word: str
) -> None:
    monkeypatch.setenv("PEDSUP_LLAMA_SERVER", str(script(tmp_path, "llama-server", body)))
    found = engines._server(device(tmp_path, run=run_bounded))[0]
    assert found.key == key
    assert word in found.found("en")


def test_the_engine_of_this_python_is_found(tmp_path: Path) -> None:
    """Loading it for real takes more than the doctor grants it on a busy machine: more here."""
    made = device(tmp_path, run=lambda command, s: run_bounded(command, 60))
    assert "llama-cpp-python 0." in engines._inprocess(made)[0].found("en")


# ---- anything at all ----


@pytest.fixture(autouse=True)
def no_engines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEDSUP_LLAMA_SERVER", "/nowhere/llama-server")


def test_an_empty_root(tmp_path: Path) -> None:
    document = checked(look(device(tmp_path)))
    assert "probe_failed" not in {f["code"] for f in document["findings"]}
    assert {f["topic"] for f in document["findings"]} >= {"chip", "cores", "memory", "engine"}


def test_findings_fit_a_narrow_screen(tmp_path: Path) -> None:
    found = look(device(tmp_path))
    lines = found.text("es", 40).split("\n")
    assert all(len(line) <= 40 or " " not in line.strip() for line in lines)
    words = " ".join(found.text("es").split()).replace("->", "").split()
    assert len([w for w in words if w not in found.text("es", 40)]) == 0


GARBAGE = st.one_of(
    st.binary(max_size=400),
    st.sampled_from(
        ["9" * 5000, "-1", "²", "\x00", "1e9", "0x10", "[", "cpu\x1b[2J", "a:b\n:\n"]
    ).map(str.encode),
    st.builds(
        lambda name, value: f"{name}{value}\n".encode("utf-8", "replace"),
        st.sampled_from(["processor : ", "CPU part : ", "Features : ", "MemTotal: ", "SwapTotal: ",
                         "MemAvailable: ", "0::", "5:memory:", "/dev/a / "]),
        st.text(max_size=60),
    ),
)  # fmt: skip


@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(contents=st.dictionaries(st.sampled_from(PROBED), GARBAGE, max_size=len(PROBED)))
def test_garbage_in_every_probed_file(contents: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for path, content in contents.items():
            put(root, path, content)
        document = checked(look(device(root)))
        failed = [f["found"] for f in document["findings"] if f["code"] == "probe_failed"]
        assert failed == []


@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    values=st.dictionaries(
        st.sampled_from(["ro.build.version.sdk", "ro.build.version.release", "ro.soc.model",
                         "ro.board.platform", OVERRIDE]),
        st.text(max_size=40),
    ),
    answer=st.one_of(st.none(), st.builds(Ran, st.integers(-64, 255), st.text(max_size=80))),
)  # fmt: skip
def test_any_property_and_any_answer_of_a_command(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, str], answer: Ran | None
) -> None:
    made = device(Path("/nowhere"), properties=values, run=lambda command, s: answer)
    findings = [*processor.chip(made), *android.phantom(made), *android.termux(made),
                *engines.engines(made)]  # fmt: skip
    for finding in findings:
        json.dumps(finding.describe("es"))


def test_pipes_and_folders_in_place_of_files(tmp_path: Path) -> None:
    """Opening a pipe that nobody writes to would hang."""
    for number, path in enumerate(PROBED):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        if number % 2:
            os.mkfifo(tmp_path / path)
        else:
            (tmp_path / path).mkdir()
    document = checked(look(device(tmp_path)))
    codes = {f["code"] for f in document["findings"]}
    assert "memory_unknown" in codes
    assert not codes & {"probe_slow", "probe_failed"}


def test_a_probe_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    never = threading.Event()
    monkeypatch.setattr(processor, "chip", lambda made: [] if never.wait(60) else [made])
    found = examine(device(tmp_path), None, Settings(), deadline_s=0.4)
    assert next(f.key for f in found.findings if f.topic == "chip") == "probe_slow"
    never.set()


def test_a_probe_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(made: Device) -> list[Finding]:
        raise ZeroDivisionError("x\x1b[2J")

    monkeypatch.setattr(processor, "chip", broken)
    document = checked(look(device(tmp_path)))
    assert "ZeroDivisionError" in document["findings"][0]["found"]


def test_really_denied_files(tmp_path: Path) -> None:
    """As a user whom the modes deny everything (root is denied nothing)."""
    with tempfile.TemporaryDirectory() as name:
        root = write_tree(Path(name), PHONES["tensor-g3"])
        put(root, "proc/meminfo", "MemTotal: 1 kB\n")
        root.chmod(0o755)
        for path in (p for p in root.rglob("*") if p.is_file()):
            path.chmod(0)
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            if os.getuid() == 0:
                os.setuid(65534)
            os.environ["HOME"] = os.environ["XDG_DATA_HOME"] = "/root/denied"
            try:
                codes = sorted({f.key for f in look(device(root)).findings})
                os.write(write_end, " ".join(codes).encode())
            finally:
                os._exit(0)
        os.close(write_end)
        os.waitpid(child, 0)
        said = os.read(read_end, 4096).decode().split()
        os.close(read_end)
    assert {"memory_unknown", "features_unknown", "storage_denied"} <= set(said)
    assert not {"probe_failed", "memory"} & set(said)


# ---- the command ----


def test_a_model_that_is_not_there_and_one_that_may_be_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    device, settings = Device(), Settings()
    (lost,) = model_fit(device, tmp_path / "sd/pediatric.gguf", settings)
    assert (lost.level, lost.key) == ("problem", "model_missing")
    assert "~/pedsup" in str(lost.remedy("en")) and "~/pedsup" in str(lost.remedy("es"))
    home = tmp_path / "pedsup"
    home.mkdir()
    for name in ("pediatric-v2.gguf", "other.gguf"):
        (home / name).write_bytes(b"")
    for asked in (tmp_path / "sd/pediatric.gguf", home / "pediatric-v3.gguf"):
        (near,) = model_fit(device, asked, settings)
        assert near.remedy("en") == f"pedsup-run doctor {home}/pediatric-v2.gguf"
        assert str(asked) in near.found("es")
    (broken,) = model_fit(device, home / "other.gguf", settings)
    assert broken.key == "model_bad"  # it is there


@pytest.mark.slow
def test_the_command_with_a_model_and_without(smollm2: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "XDG_CONFIG_HOME": str(tmp_path)}

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return programs.run("pedsup", "doctor", *words, env=env)

    done = run(smollm2, "--json", "--lang", "es")
    document = json.loads(done.stdout)
    codes = {f["code"] for f in document["findings"]}
    assert {"model_fits", "not_tuned"} <= codes
    assert done.returncode == (1 if document["level"] == "problem" else 0)
    plain = run()
    assert "pedsup-run doctor MODEL" in plain.stdout
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + bytes(60))
    done = run(bad)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert run(tmp_path / "absent.gguf").returncode == 1
    (tmp_path / "pedsup").mkdir(exist_ok=True)
    (tmp_path / "pedsup/settings.toml").write_text("thraeds = 2\n")
    done = run()
    assert done.returncode == 1
    assert "thraeds" in done.stdout
