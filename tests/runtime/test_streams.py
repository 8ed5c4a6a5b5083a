"""Terminals and pipes as they are found: another encoding, closed, full, or without a reader."""

from __future__ import annotations

import codecs
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pedsup_testing.home import environment
from pedsup_testing.slowly import slow_but

from pedsup.exit_codes import ExitCode
from pedsup.files import standard_streams

standard_streams.prepare()  # registers the error handler; pytest's own streams are left alone
ANSWER = "≥ 38 °C → µg 😀 “sí”"
LATIN = ">= 38 °C -> µg ? 'sí'"
ASCII = ">= 38 deg C -> ug ? 'si'"
Shell = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Run a command line of bash, in which `py` is this Python."""

    def call(line: str, stdin: bytes = b"", **more: str) -> subprocess.CompletedProcess[bytes]:
        env = {**environment(tmp_path), "py": sys.executable, **more}
        for name in ("PYTHONUTF8", "PYTHONIOENCODING"):
            if name not in more:
                env.pop(name, None)
        return subprocess.run(["bash", "-c", line], input=stdin, capture_output=True, env=env)

    return call


@pytest.fixture
def ask(shell: Shell, smollm2: Path, tmp_path: Path) -> Shell:
    """Ask SmolLM2 with a grammar that leaves it one answer."""
    (tmp_path / "g.gbnf").write_text(f'root ::= "{ANSWER}"\n', encoding="utf-8")
    base = f"$py -m pedsup {smollm2} -p hola --temp 0 --ctx 256 --threads 1 --no-history"
    return lambda rest="", **more: shell(
        f"{base} --grammar {tmp_path}/g.gbnf {rest}", **{"LC_ALL": "C.UTF-8", **more}
    )


@pytest.mark.parametrize(
    ("encoding", "shown"),
    slow_but([("ascii", ASCII)], [("utf-8", ANSWER), ("iso8859-1", LATIN), ("ascii", ASCII)]),
)
def test_an_answer_is_shown_in_any_encoding(ask: Shell, encoding: str, shown: str) -> None:
    done = ask(PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode(encoding).strip() == shown


@pytest.mark.slow
def test_json_loses_nothing_in_any_encoding(ask: Shell) -> None:
    done = ask("--json", PYTHONIOENCODING="iso8859-1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["answer"] == ANSWER


@pytest.mark.slow
def test_a_locale_that_is_not_installed_is_no_obstacle(ask: Shell) -> None:
    done = ask(LC_ALL="xx_YY.ISO-8859-1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().strip() == ANSWER


@pytest.mark.slow
def test_closed_and_full_streams(ask: Shell) -> None:
    closed = ask(">&-")
    assert closed.returncode == ExitCode.OUTPUT
    assert b"standard output is closed" in closed.stderr
    full = ask("> /dev/full")
    assert full.returncode == ExitCode.RESOURCE
    assert full.stderr.count(b"error: ") == 1
    for rest in ("2>&-", "<&-", "2> /dev/full", "2> >(exec true)"):
        done = ask(rest)
        assert (done.returncode, done.stdout.decode().strip()) == (0, ANSWER), rest
    gone = ask("| (exec true); exit ${PIPESTATUS[0]}")
    assert gone.returncode in (ExitCode.PIPE_CLOSED, 0)
    for done in (closed, full, gone):
        assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


@pytest.mark.parametrize("program", ["pedsup", "pedsup_export", "pedsup_train", "pedsup_bench"])
@pytest.mark.parametrize(
    "rest",
    slow_but([">&-", "> /dev/full"], [">&-", "2>&-", "<&-", "<&- >&- 2>&-", "> /dev/full"]),
)
def test_no_command_ends_in_a_traceback(shell: Shell, program: str, rest: str) -> None:
    calls = {"pedsup": "trust list", "pedsup_export": "--help", "pedsup_train": "recipe v0.1",
             "pedsup_bench": "phones --json"}  # fmt: skip
    done = shell(f"$py -m {program} {calls[program]} {rest}")
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr
    wanted = {ExitCode.RESOURCE} if "full" in rest else {0, 1} if program == "pedsup" else {0}
    assert done.returncode in wanted, done.stderr


READ = (
    "$py -c 'from pedsup.files import standard_streams as s; s.prepare(); "
    "print(ascii(s.read_all()))'"
)


@pytest.mark.parametrize(
    ("raw", "encoding"),
    [
        ("año ≥ 3".encode(), "utf-8"), ("año ≥ 3".encode(), "iso8859-1"),
        (codecs.BOM_UTF8 + "año ≥ 3".encode(), "utf-8"), ("año ≥ 3".encode("utf-16"), "utf-8"),
        ("año ≥ 3".encode("utf-16"), "iso8859-1"),
    ],
)  # fmt: skip
def test_piped_text_is_read_in_its_own_encoding(shell: Shell, raw: bytes, encoding: str) -> None:
    done = shell(READ, raw, PYTHONIOENCODING=encoding)
    assert done.stdout.decode().strip() == ascii("año ≥ 3")


def test_piped_latin_1_is_read_by_its_locale_and_refused_without(shell: Shell) -> None:
    raw = "¿tos en niño?\r\n".encode("latin-1")
    done = shell(READ, raw, PYTHONIOENCODING="iso8859-1")
    assert done.stdout.decode().strip() == ascii("¿tos en niño?\n")
    done = shell(READ, raw, PYTHONIOENCODING="utf-8")
    assert b"standard input is not UTF-8 text" in done.stderr


@given(st.text(), st.sampled_from(["ascii", "iso8859-1", "cp1252", "koi8-r", "utf-8"]))
def test_every_text_can_be_written_and_json_stays_json(text: str, encoding: str) -> None:
    raw = json.dumps([text], ensure_ascii=False).encode(encoding, standard_streams.HANDLER)
    (read,) = json.loads(raw.decode(encoding))
    if text.isascii():
        assert read == text


def test_a_closed_number_is_not_given_to_the_next_file(shell: Shell, tmp_path: Path) -> None:
    code = (
        "from pedsup.files import standard_streams as s; s.prepare(); "
        f"f = open('{tmp_path}/f', 'w'); print('lost'); print(f.fileno(), file=f)"
    )
    shell(f'$py -c "{code}" >&- 2>&- <&-')
    assert int((tmp_path / "f").read_text()) > 2


def test_what_llama_cpp_prints_past_its_log_reaches_nobody(shell: Shell) -> None:
    code = (
        "import os, sys; from pedsup.files import standard_streams as s; s.prepare(); "
        "s.separate_native_stderr(); os.write(2, b'secret'); print('ours', file=sys.stderr)"
    )
    assert shell(f'$py -c "{code}"').stderr == b"ours\n"


def test_a_byte_that_is_no_text_is_refused_when_it_is_typed(
    start_session: Callable[..., object],
) -> None:
    from pedsup_testing.fake_engine import END

    with start_session([["hola", END]]) as session:  # type: ignore[attr-defined]
        session.expect("> ")
        # readline keeps half a character back until the next one is typed.
        os.write(session._fd, b"tos en ni\xf1o y ni\xc3\xb1a\n")
        session.expect("what was typed is not UTF-8 text")
        session.expect("> ")
        session.line("tos en niño")
        session.expect("hola")
        session.line("/quit")
        assert session.wait() == 0


@pytest.fixture
def start_session(tmp_path: Path, edge_template: str) -> Callable[..., object]:
    """A session of a scripted engine on a terminal."""
    from pedsup_testing import scripted_repl
    from pedsup_testing.terminal import Terminal

    def launch(script: list[list[str]]) -> Terminal:
        (tmp_path / "sessions").mkdir()
        sessions, calls = str(tmp_path / "sessions"), str(tmp_path / "calls.json")
        config = {"script": script, "template": edge_template, "folder": sessions, "calls": calls}
        (tmp_path / "config.json").write_text(json.dumps(config))
        return Terminal(
            [sys.executable, scripted_repl.__file__, str(tmp_path / "config.json")],
            {"PYTHONPATH": os.pathsep.join(sys.path), "INPUTRC": os.devnull, "LC_ALL": "C.UTF-8"},
        )

    return launch
