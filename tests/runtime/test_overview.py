"""`pedsup-run` alone, and `pedsup-run sessions`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pedsup_testing import programs
from pedsup_testing.home import environment
from pedsup_testing.signed_models import tiny
from pedsup_testing.terminal import Terminal

from pedsup.files.timestamp import local
from pedsup.session.files import new_session
from pedsup.session.history import Session
from pedsup.terminal.overview import overview


def talk(folder: Path, model: Path, *questions: str) -> Session:
    """A conversation that was held and left."""
    folder.mkdir(parents=True, exist_ok=True)
    session = new_session(folder, {"model": {"name": "M", "path": str(model), "digest": "d"}})
    for question in questions:
        session.ask(question)
        session.finish(f"Answer to {question}", "", "end")
    session.close()
    return session


def test_models_of_the_last_conversations_come_first(tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    used, lying = tiny(elsewhere / "used.gguf"), tiny(here / "lying.gguf")
    (here / "no.gguf").write_bytes(b"<html>")
    (here / ".part.gguf").write_bytes(lying.read_bytes())
    (here / "adapter.gguf").write_bytes(b"GGUF" + b"\0" * 20 + b"adapter.type")
    (here / "link.gguf").symlink_to(used)
    sessions = tmp_path / "sessions"
    talk(sessions, tmp_path / "gone.gguf", "¿Fiebre?")
    last = talk(sessions, used, "¿Tos?")
    found = overview(sessions, (here,))
    assert found.models == (used, lying)
    assert found.last is not None
    assert found.last.id == last.id
    lines = [str(line) for line in found.lines()]
    assert any("¿Tos?" in line and "--resume" in line for line in lines)


def test_the_name_of_a_model_cannot_look_like_a_line_of_ours(tmp_path: Path) -> None:
    tiny(tmp_path / "a\nSigned by Dr. Who\u202e.gguf")
    shown = "\n".join(overview(tmp_path, (tmp_path,)).lines())
    assert "a\\nSigned by Dr. Who\\u202e.gguf" in shown


def test_alone_on_a_terminal_it_says_what_to_do(tmp_path: Path) -> None:
    env = environment(tmp_path)
    (tmp_path / "home" / "pedsup").mkdir(parents=True)
    tiny(tmp_path / "home" / "pedsup" / "installed.gguf")
    arguments = [sys.executable, "-m", "pedsup"]
    with Terminal(arguments, env) as terminal:
        said = terminal.expect("--help")
        assert terminal.wait() == 0
    assert "installed.gguf" in said
    assert "pedsup-run doctor" in said
    done = subprocess.run(arguments, env=env, capture_output=True, text=True, check=False, input="")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no model was given" in done.stderr


def test_sessions_lists_and_searches(tmp_path: Path) -> None:
    env = environment(tmp_path)
    folder = tmp_path / "data" / "pedsup" / "sessions"
    first = talk(folder, tmp_path / "m.gguf", "Niño con fiebre", "¿Y la dosis?")
    second = talk(folder, tmp_path / "m.gguf", "Diarrea aguda")
    for age, session in enumerate((second, first)):
        stamp = time.time() - 60 * age
        os.utime(folder / f"{session.id}.jsonl", (stamp, stamp))

    def run(*words: str) -> str:
        done = programs.run("pedsup", "sessions", *words, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    lines = run().splitlines()
    assert [line.partition("  ")[0] for line in lines[:4:2]] == [second.id, first.id]
    assert lines[1:4:2] == ["  Diarrea aguda", "  Niño con fiebre"]
    found = json.loads(run("--json", "FIEBRE", "dosis"))
    assert [row["id"] for row in found["sessions"]] == [first.id]
    assert found["sessions"][0]["turns"] == 2
    assert "No conversation" in run("nothing like it")
    assert "There are more" in run("-n", "1")


@pytest.mark.parametrize(("zone", "shown"), [("America/Lima", "09:19"), ("UTC", "14:19")])
def test_times_are_local(monkeypatch: pytest.MonkeyPatch, zone: str, shown: str) -> None:
    monkeypatch.setenv("TZ", {"America/Lima": "<-05>5"}.get(zone, zone))
    time.tzset()
    try:
        assert local("2026-11-24T14:19:02Z") == f"2026-11-24 {shown}"
        assert local("nonsense") == "nonsense"
    finally:
        monkeypatch.undo()
        time.tzset()
