"""Sudden ends, made for real with signals; and what the next start says of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pedsup_testing.cgroups import memory_limit
from pedsup_testing.terminal import Terminal

from pedsup.crash.marker import SIZE, RunFacts, RunMarker, boot_id, oom_kills, read_facts
from pedsup.crash.report import (
    CLOSE_APPS,
    SMALLER_MODEL,
    Present,
    SuddenEnd,
    aftermath_text,
    likely_cause,
    remedies,
    take_sudden_ends,
)
from pedsup.run.forget import ForgetPlan, execute, plan_all
from pedsup.texts.intended_use import Language
from pedsup.texts.language import translated

MIB = 1 << 20
HERE = Present("boot-1", 5)
FACTS = RunFacts(
    model="/sd/m.gguf", session="20261124-1", phase="answering", n_ctx=4096, n_ubatch=512,
    need=1500 * MIB, memory_at_start=2000 * MIB, memory_free=900 * MIB, oom_kills=5, boot="boot-1",
)  # fmt: skip
HOLDER = """
import os, signal, sys, time
from pathlib import Path
from pedsup.crash.marker import RunFacts, RunMarker
from pedsup.run.watch import _orderly_signals
for number in (signal.SIGTERM, signal.SIGHUP):  # a runner under nohup hands its ignoring down
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
with _orderly_signals():
    marker = RunMarker.create(Path(sys.argv[1]), RunFacts(model="m.gguf", n_ctx=4096))
    marker.set_session("the-session")
    marker.set_phase(sys.argv[2])
    try:
        print("held", flush=True)
        exec(sys.argv[3])
        time.sleep(60)
    finally:
        marker.close()
"""


@pytest.fixture
def hold(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A function that starts a process with a mark, and returns it when the mark is there."""
    started = []

    def start(phase: str = "answering", code: str = "") -> subprocess.Popen[str]:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        child = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path), phase, code],
            stdout=subprocess.PIPE, text=True, env=env,
        )  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.wait()
        child.stdout.close()


Hold = Callable[..., "subprocess.Popen[str]"]


# ---- the mark -------------------------------------------------------------------------------


def test_a_killed_process_leaves_its_mark_and_it_is_told_once(hold: Hold, tmp_path: Path) -> None:
    child = hold()
    assert take_sudden_ends(tmp_path) == []  # it lives
    assert list(tmp_path.glob("*.run"))
    child.kill()
    child.wait()
    (end,) = take_sudden_ends(tmp_path)
    assert (end.facts.session, end.facts.phase, end.facts.pid) == (
        "the-session", "answering", child.pid,
    )  # fmt: skip
    assert end.facts.boot == boot_id() != ""
    assert end.facts.memory_free is not None and end.facts.memory_free > 0
    assert take_sudden_ends(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_polite_signal_leaves_none(hold: Hold, tmp_path: Path, number: signal.Signals) -> None:
    child = hold()
    child.send_signal(number)
    assert child.wait(timeout=60) != 0
    assert not tmp_path.exists()  # the folder of the last mark goes with it


def test_a_crash_in_native_code_leaves_its_word(hold: Hold, tmp_path: Path) -> None:
    child = hold(code="os.kill(os.getpid(), signal.SIGSEGV)")
    child.wait()
    (end,) = take_sudden_ends(tmp_path)
    assert "Segmentation fault" in end.crash
    assert likely_cause(end, Present(boot_id(), oom_kills())) == "crash"
    assert list(tmp_path.iterdir()) == []


def test_two_sessions_at_once_do_not_mistake_each_other(hold: Hold, tmp_path: Path) -> None:
    dead, alive = hold("loading"), hold("ready")
    dead.kill()
    dead.wait()
    (end,) = take_sudden_ends(tmp_path)
    assert end.facts.pid == dead.pid and end.facts.phase == "loading"
    assert alive.poll() is None
    assert len(list(tmp_path.glob("*.run"))) == 1


def test_forget_takes_the_marks_of_the_dead(
    hold: Hold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pedsup.run.forget.data_folder", lambda: tmp_path)
    monkeypatch.setattr("pedsup.run.forget.MARKS", ".")
    dead, alive = hold(), hold()
    dead.kill()
    dead.wait()
    plan = plan_all(tmp_path / "sessions")
    marks = [item for item in plan.items if item.kind == "mark of a killed run"]
    assert {item.path.name for item in marks} == {f"{dead.pid}.run", f"{dead.pid}.crash"}
    assert execute(ForgetPlan(tuple(marks))).left == ()
    assert {path.stem for path in tmp_path.iterdir()} == {str(alive.pid)}


def test_a_mark_is_one_page_and_private(tmp_path: Path) -> None:
    marker = RunMarker.create(tmp_path / "running", replace(FACTS, model="x" * 9000))
    assert marker is not None
    (path,) = (tmp_path / "running").glob("*.run")
    assert path.stat().st_size == SIZE
    assert path.stat().st_mode & 0o077 == 0
    for beside in (tmp_path / "running").glob("*.crash"):
        assert beside.stat().st_mode & 0o077 == 0
    assert RunMarker.create(tmp_path / "running", FACTS) is None  # this process has one
    marker.close()
    assert not (tmp_path / "running").exists()


def test_a_folder_that_cannot_be_made_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert RunMarker.create(tmp_path / "file", FACTS) is None
    assert take_sudden_ends(tmp_path / "file") == []
    assert take_sudden_ends(tmp_path / "none") == []


@pytest.mark.parametrize(
    "raw", [b"", b"\0" * SIZE, b"[]", b'{"schema": 2}', b'{"schema": 1', b"\xff\xfe"]
)
def test_a_torn_or_foreign_mark_is_dropped(tmp_path: Path, raw: bytes) -> None:
    assert read_facts(raw) is None
    (tmp_path / "7.run").write_bytes(raw)
    assert take_sudden_ends(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_forged_values_are_not_taken() -> None:
    assert read_facts(b'{"schema": 1, "pid": 4, "later": [1]}') == RunFacts(pid=4)
    for forged in (b'"n_ctx": "many"', b'"need": true', b'"session": 7', b'"phase": "asleep"'):
        assert read_facts(b'{"schema": 1, "pid": 4, ' + forged + b"}") is None


# ---- the cause ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "crash", "today", "cause"),
    [
        ({}, "", Present("boot-2", 0), "restart"),
        ({}, "Fatal Python error: Aborted", HERE, "crash"),
        ({}, "", Present("boot-1", 6), "oom"),
        ({"memory_free": 100 * MIB}, "", HERE, "memory"),
        ({"need": 1900 * MIB}, "", HERE, "memory"),
        ({"phase": "loading", "need": 1900 * MIB}, "", HERE, "memory"),
        ({"phase": "ready", "memory_free": 100 * MIB}, "", HERE, "killed"),
        ({}, "", HERE, "killed"),
        ({"memory_free": None, "memory_at_start": None}, "", Present("", None), "killed"),
        ({"oom_kills": None}, "", Present("boot-1", 6), "killed"),
    ],
)
def test_the_likely_cause(changes: dict, crash: str, today: Present, cause: str) -> None:  # type: ignore[type-arg]
    assert likely_cause(SuddenEnd(replace(FACTS, **changes), crash), today) == cause


def test_remedies_are_smaller_than_what_was() -> None:
    end = SuddenEnd(replace(FACTS, extra_buffers=True))
    assert remedies(end, "memory") == [
        "--extra-buffers off", "--ctx 2048", "--ubatch 128", CLOSE_APPS, SMALLER_MODEL,
    ]  # fmt: skip
    small = SuddenEnd(replace(FACTS, n_ctx=1024, n_ubatch=128))
    assert remedies(small, "oom") == [CLOSE_APPS, SMALLER_MODEL]
    assert remedies(end, "restart") == []
    assert remedies(end, "crash") == ["--extra-buffers off", "--engine server"]


@pytest.mark.parametrize("language", ["en", "es"])
@pytest.mark.parametrize("cause", ["restart", "crash", "oom", "memory", "killed"])
def test_every_cause_can_be_said(language: Language, cause: str) -> None:
    today = Present("boot-2" if cause == "restart" else "boot-1", 6 if cause == "oom" else 5)
    free = (100 if cause == "memory" else 900) * MIB
    end = SuddenEnd(replace(FACTS, memory_free=free), "Fatal" if cause == "crash" else "")
    lines = aftermath_text([end], today, resuming=False)
    said = [translated(line, language) for line in lines]
    assert said[-1].endswith("pedsup-run --resume 20261124-1")
    assert "m.gguf" in said[0]
    assert aftermath_text([end], today, resuming=True) == lines[:-1]
    assert aftermath_text([], today, resuming=False) == []


# ---- the whole program ----------------------------------------------------------------------


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    homes = {f"XDG_{kind}_HOME": str(tmp_path / kind) for kind in ("DATA", "CONFIG", "CACHE")}
    return {
        **os.environ, **homes, "PYTHONPATH": os.pathsep.join(sys.path), "LANG": "C.UTF-8",
        "NO_COLOR": "1",
        "PEDSUP_ACCEPT_INTENDED_USE": "1", "INPUTRC": os.devnull,
    }  # fmt: skip


PROMPT = r"\n(\x1b\[\?2004h)?> "
JOIN = (
    "import os, sys\nn = int(sys.argv[1])\n"
    "for f in sys.argv[2:2 + n]: open(f, 'w').write(str(os.getpid()))\n"
    "open('/proc/self/oom_score_adj', 'w').write('1000')\n"
    "os.execv(sys.executable, [sys.executable, '-m', 'pedsup', *sys.argv[2 + n:]])"
)
HOG = (
    "import os, sys\nfor f in sys.argv[2:]: open(f, 'w').write(str(os.getpid()))\n"
    "open('/proc/self/oom_score_adj', 'w').write('-999')\n"
    "held = bytearray(int(sys.argv[1]))\nheld[::4096] = b'x' * len(held[::4096])\n"
)


def kept_answer(folder: Path) -> str:
    """What the transcripts hold of an answer that is still being written."""
    rows = [
        json.loads(line)
        for path in folder.rglob("*.jsonl")
        for line in path.read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]
    return "".join(row["answer"] for row in rows if row.get("type") == "partial")


@pytest.mark.slow
def test_killed_for_memory_the_next_start_says_so_and_resumes(
    env: dict[str, str], smollm2: Path
) -> None:
    """Another 'app' takes the memory of the group; the kernel kills the session in its answer."""
    options = ["--temp", "0", "--ctx", "512", "--threads", "1", "--engine", "inprocess"]
    with memory_limit(300 * MIB) as group:
        command = [sys.executable, "-c", JOIN, str(len(group.procs)), *group.procs, str(smollm2)]
        with Terminal([*command, *options], env) as terminal:
            terminal.expect(PROMPT)
            terminal.line("Count from 1 to 200.")
            while "3" not in kept_answer(Path(env["XDG_DATA_HOME"])):  # it follows the screen
                terminal.expect(r"\d")
            subprocess.run(
                [sys.executable, "-c", HOG, str(284 * MIB), *group.procs],
                check=False, timeout=120,
            )  # fmt: skip
            assert terminal.wait() == -signal.SIGKILL
    plain = [sys.executable, "-m", "pedsup", "--resume", *options]
    with Terminal(plain, env) as terminal:
        said = terminal.expect(PROMPT)
        assert "The last run ended suddenly while answering" in said
        assert "The kernel has killed processes for lack of memory" in said
        assert re.search(r"What helps: .*close other programs", said)
        assert "The last answer was cut off" in said
        assert re.search(r"1.*2.*3", said.partition("cut off")[2], re.DOTALL)
        terminal.press("D")
        assert terminal.wait() == 0
    with Terminal(plain, env) as terminal:
        assert "ended suddenly" not in terminal.expect(PROMPT)
        terminal.press("D")
        assert terminal.wait() == 0
