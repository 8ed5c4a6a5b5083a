"""`pedsup-run forget`: what it erases, and above all what it does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pedsup_testing import programs

from pedsup.session.files import new_session

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with two sessions, caches, and things that are not to be touched."""
    values = {f"XDG_{n.upper()}_HOME": str(tmp_path / n) for n in ("data", "config", "cache")}
    (tmp_path / "tmp").mkdir()
    for name, value in {**values, "HOME": str(tmp_path), "TMPDIR": str(tmp_path / "tmp")}.items():
        monkeypatch.setenv(name, value)
    sessions = tmp_path / "data/pedsup/sessions"
    sessions.mkdir(parents=True)
    for text in ("uno", "dos"):
        session = new_session(sessions, {})
        session.ask(text)
        session.finish("ok", "", "end")
        session.close()
    cache = tmp_path / "cache/pedsup"
    for path in (
        cache / "prefix/aa.state", cache / "prefix/aa.json", cache / "verified/bb.json",
        cache / "prefix/.aa.json.partial",
    ):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x" * 10)
    for path in kept(tmp_path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    return tmp_path


def kept(home: Path) -> list[Path]:
    return [
        home / "data/pedsup/intended-use.json",
        home / "data/pedsup/sessions/notes.jsonl",
        home / "data/pedsup/sessions/20261124-101010-abcd.jsonl.md",
        home / "config/pedsup/trust.json",
        home / "config/pedsup/settings.toml",
        home / "cache/pedsup/llama-cpp-0.3.36/bin/llama-server",
        home / "cache/other/file",
        home / "tmp/pedsup-notes/text",
        home / f"tmp/pedsup-{os.getpid()}-live/slot.state",
    ]


@pytest.fixture
def run() -> Run:
    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        return programs.run("pedsup", "forget", *arguments)

    return call


def files(home: Path) -> set[Path]:
    return {path for path in home.rglob("*") if path.is_file()}


def test_it_asks_first(home: Path, run: Run) -> None:
    (home / "config/pedsup/settings.toml").unlink()
    before = files(home)
    done = run()
    assert done.returncode == 2
    assert "not confirmed" in done.stderr
    assert "sessions: 2 files" in done.stderr
    assert files(home) == before


def test_it_erases_conversations_and_caches_and_nothing_else(home: Path, run: Run) -> None:
    settings = home / "config/pedsup/settings.toml"
    settings.write_text("")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead = home / f"tmp/pedsup-{gone.pid}-abc/slot.state"
    dead.parent.mkdir()
    dead.write_text("read tokens")
    done = run("--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert files(home) == set(kept(home))
    assert not dead.parent.exists()
    document = json.loads(done.stdout)
    kinds = sorted(item["kind"] for item in document["removed"])
    assert kinds == ["left by a killed engine", *["prefix cache"] * 3, *["session"] * 2,
                     "verified files"]  # fmt: skip
    assert document["left"] == []
    assert "Flash storage" in document["note"]
    assert run("--yes").stdout.startswith("There is nothing to forget")


def test_one_session(home: Path, run: Run) -> None:
    (home / "config/pedsup/settings.toml").write_text("")
    first, second = sorted((home / "data/pedsup/sessions").glob("2*.jsonl"))
    before = files(home)
    assert run("--session", first.stem, "--yes").returncode == 0
    assert files(home) == before - {first}
    assert run("--session", home / "config/pedsup/trust.json", "--yes").returncode == 2
    assert run("--session", "2999", "--yes").returncode == 2
    assert second.exists()


def test_a_session_that_is_open_is_left_and_named(home: Path, run: Run) -> None:
    (home / "config/pedsup/settings.toml").write_text("")
    session = new_session(home / "data/pedsup/sessions", {})
    assert session.transcript is not None
    path = session.transcript.path
    done = run("--yes", "--json")
    assert done.returncode == 6
    assert json.loads(done.stdout)["left"] == [
        {"path": str(path), "reason": "open in another session"}
    ]
    assert path.exists()
    session.close()
    assert run("--yes").returncode == 0
    assert not path.exists()


def test_links_are_not_followed(home: Path, run: Run) -> None:
    (home / "config/pedsup/settings.toml").write_text("")
    target = home / "precious"
    target.write_text("mine")
    link = home / "cache/pedsup/verified/link.json"
    link.symlink_to(target)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (home / f"tmp/pedsup-{gone.pid}-x").symlink_to(home / "config/pedsup")
    assert run("--yes").returncode == 0
    assert not link.is_symlink()
    assert target.read_text() == "mine"
    assert (home / "config/pedsup/trust.json").exists()


def test_a_history_folder_of_one_s_own(home: Path, run: Run) -> None:
    own = home / "Documents"
    own.mkdir()
    (own / "thesis.jsonl").write_text("mine")
    session = new_session(own, {})
    session.close()
    (home / "config/pedsup/settings.toml").write_text(f'history_dir = "{own}"\n')
    assert run("--yes").returncode == 0
    assert [path.name for path in own.iterdir()] == ["thesis.jsonl"]


def test_a_killed_engine_s_number_that_another_program_has_now(home: Path, run: Run) -> None:
    """A state of a conversation must not stay because its process number was given out again."""
    (home / "config/pedsup/settings.toml").write_text("")
    with subprocess.Popen(["sleep", "60"]) as other:
        left = home / f"tmp/pedsup-{other.pid}-old/slot.state"
        left.parent.mkdir()
        left.write_text("a conversation")
        done = run("--yes")
        other.kill()
    assert done.returncode == 0, done.stderr
    assert not left.exists()
    assert (home / f"tmp/pedsup-{os.getpid()}-live/slot.state").exists()


def test_each_kind_is_counted_once(home: Path, run: Run) -> None:
    journal = home / "cache/pedsup/mcqa/a.jsonl"
    journal.parent.mkdir()
    journal.write_text("{}")
    (home / "config/pedsup/settings.toml").write_text("")
    done = run("--yes")
    assert not journal.exists()
    assert done.stdout.count("unfinished measurements: 1 file") == 1
