"""What a session leaves on the disk, and that it speaks to nobody; whole sessions, both engines."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pedsup_testing import home, signed_models
from pedsup_testing.served import Served
from pedsup_testing.terminal import Terminal

PROMPT = r"\n(\x1b\[\?2004h)?> "
QUICK = ["--temp", "0", "--max-tokens", "6", "--ctx", "512", "--threads", "1"]
SECRET = "Ana Quispe, 3 years, 14 kg"
SYSTEM = f"You are a careful assistant. The patient is {SECRET}. " * 6
ADDRESS = re.compile(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"|sa_family=(\w+)')


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """The ordinary umask, which leaves new files readable to all."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return home.environment(tmp_path)


@pytest.fixture
def model(tmp_path: Path, smollm2: Path) -> Path:
    """SmolLM2 with a manifest, so that a full reading is remembered too."""
    (tmp_path / "models").mkdir()
    return signed_models.with_manifest(smollm2, tmp_path / "models/m.gguf")


@pytest.fixture(params=["inprocess", pytest.param("server", marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest, env: dict[str, str], native_tool) -> str:  # type: ignore[no-untyped-def]
    if request.param == "server":
        env["PEDSUP_LLAMA_SERVER"] = str(native_tool("llama-server"))
    return str(request.param)


def require_strace() -> str:
    """strace's path; skips where it is not to be had."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("strace is not installed: apt-get install strace")
    probe = [program, "--seccomp-bpf", "-f", "-qq", "true"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here: allow ptrace")
    return program


def networks(calls: list[str]) -> set[str]:
    """Addresses and families that appear in system calls."""
    return {g for line in calls for match in ADDRESS.finditer(line) for g in match.groups() if g}


def hold_session(env: dict[str, str], model: Path, *options: str, trace: Path | None = None) -> str:
    """A session of two questions on a terminal; what it showed."""
    command = [sys.executable, "-m", "pedsup", str(model), "--system", SYSTEM, *QUICK, *options]
    if trace is not None:
        strace = str(shutil.which("strace"))
        command = [strace, "-f", "--seccomp-bpf", "-qq", "-e", "trace=network",
                   "-e", "signal=none", "-o", str(trace), *command]  # fmt: skip
    with Terminal(command, env) as terminal:
        terminal.expect(PROMPT)
        for question in ("Is it dehydration?", "And fever?"):
            terminal.line(question)
            terminal.expect(PROMPT)
        terminal.press("D")
        assert terminal.wait() == 0
        return terminal.output


def written(tmp_path: Path) -> dict[str, Path]:
    """Every file and folder that was made, by its path below the home."""
    roots = [tmp_path / n for n in ("home", "data", "config", "cache", "tmp")]
    paths = [path for root in roots for path in root.rglob("*")]
    return {str(path.relative_to(tmp_path)): path for path in paths}


@pytest.mark.slow
def test_all_that_is_written_is_for_its_owner_only(
    env: dict[str, str], model: Path, tmp_path: Path, engine: str
) -> None:
    hold_session(env, model, "--engine", engine)
    found = written(tmp_path)
    kinds = {re.sub(r"[0-9a-f]{40}|\d{8}-\d{6}-[0-9a-f]{4}", "*", name) for name in found}
    assert kinds == {
        "data/pedsup", "data/pedsup/intended-use.json",
        "data/pedsup/sessions", "data/pedsup/sessions/*.jsonl",
        "cache/pedsup", "cache/pedsup/verified", "cache/pedsup/verified/*.json",
        "cache/pedsup/prefix", "cache/pedsup/prefix/*.json", "cache/pedsup/prefix/*.state",
    }  # fmt: skip
    for name, path in found.items():
        mode = path.stat().st_mode & 0o777
        assert mode == (0o700 if path.is_dir() else 0o600), f"{name} {mode:o}"
    done = subprocess.run(
        [sys.executable, "-m", "pedsup", "forget", "--yes"], env=env, check=True,
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "Erased:" in done.stdout
    left = [name for name, path in written(tmp_path).items() if path.is_file()]
    assert left == ["data/pedsup/intended-use.json"]


@pytest.mark.slow
def test_no_history_leaves_nothing_of_what_was_said(
    env: dict[str, str], model: Path, tmp_path: Path, engine: str
) -> None:
    hold_session(env, model, "--engine", engine, "--no-history")
    files = {name: path for name, path in written(tmp_path).items() if path.is_file()}
    assert len(files) == 2
    assert sorted(name.split("/")[-2] for name in files) == ["pedsup", "verified"]
    for path in files.values():
        text = path.read_text()
        for trace in ("Quispe", "dehydration", "fever", str(model.parent)):
            assert trace not in text


@pytest.mark.slow
def test_a_session_speaks_to_this_device_only(
    env: dict[str, str], model: Path, tmp_path: Path, engine: str
) -> None:
    """Every network call of a whole session, as the kernel sees it, child processes included."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: apt-get install strace")
    if subprocess.run(
        ["strace", "--seccomp-bpf", "-f", "-qq", "true"], capture_output=True, check=False
    ).returncode:
        pytest.skip("strace may not trace here: allow ptrace")
    trace = tmp_path / "trace"
    hold_session(env, model, "--engine", engine, trace=trace)
    calls = [line for line in trace.read_text().splitlines() if re.search(r"\w+\(", line)]
    if engine == "inprocess":
        assert calls == []
        return
    found = {
        group for line in calls for match in ADDRESS.finditer(line) for group in match.groups()
    }
    assert found - {None} == {"127.0.0.1", "AF_INET"}
    opened = {match[1] for line in calls if (match := re.search(r" socket\((\w+)", line))}
    assert opened == {"AF_INET"}


@pytest.mark.slow
def test_the_server_listens_and_speaks_on_this_device_only(
    env: dict[str, str], model: Path, tmp_path: Path, engine: str
) -> None:
    """`--serve`: a question of the page and one of a program, from start to Ctrl-C."""
    strace, trace = require_strace(), tmp_path / "trace"
    replace_by = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"
    # -D: the tracer is the grandchild, so that Ctrl-C goes to the server.
    server = Served(
        ["-c", replace_by, strace, "-D", "-f", "--seccomp-bpf", "-qq", "-e", "trace=network",
         "-e", "signal=none", "-o", str(trace), sys.executable, "-m", "pedsup", str(model),
         "--serve", "--json", "--port", "0", "--engine", engine, *QUICK],
        env,
    )  # fmt: skip
    try:
        server.ask("Is it dehydration?")
        name = server.call("GET", "/v1/models")[2]["data"][0]["id"]
        body = {"model": name, "messages": [{"role": "user", "content": "Hi."}]}
        status, _, answer = server.call("POST", "/v1/chat/completions", body)
    finally:
        code, errors = server.finish()
    assert status == 200, answer
    assert code in (0, 130), errors
    assert "WARNING: this file is not signed" in errors
    calls = [line for line in trace.read_text().splitlines() if re.search(r"\w+\(", line)]
    assert any("listen(" in line for line in calls)
    assert networks(calls) <= {"127.0.0.1", "AF_INET", "AF_UNIX", "AF_UNSPEC"}
    assert {m[1] for line in calls if (m := re.search(r"connect\(.*sa_family=(\w+)", line))} <= {
        "AF_INET"
    }
    assert not (tmp_path / "tmp").exists() or list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.slow  # test_cli.py sees every system call
def test_python_s_own_audit_sees_no_socket(env: dict[str, str], model: Path) -> None:
    """Where strace is not to be had, as in Termux: the hook of Python's own sockets."""
    program = (
        "import sys\n"
        "def hook(event, args):\n"
        "    if event.startswith('socket.') or event == 'http.client.connect':\n"
        "        raise RuntimeError(f'{event} {args}')\n"
        "sys.addaudithook(hook)\n"
        "from pedsup.cli.main import main\n"
        f"sys.argv = ['pedsup-run', {str(model)!r}, '-p', 'Hi.', '--json', "
        f"'--engine', 'inprocess', *{QUICK!r}]\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["answer"].strip()


def test_the_hook_would_see_a_socket() -> None:
    program = (
        "import sys\n"
        "def hook(event, args):\n"
        "    if event.startswith('socket.'): raise RuntimeError(event)\n"
        "sys.addaudithook(hook)\nimport socket\nsocket.socket()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert "RuntimeError: socket.__new__" in done.stderr
