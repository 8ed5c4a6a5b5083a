"""`pedsup-run` as a user starts it, on real SmolLM2; and everything it must refuse."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pedsup_testing import programs, sized_models
from pedsup_testing.terminal import Terminal

from pedsup.cli.verbs import VERBS
from pedsup.texts.intended_use import FULL, SHORT

Run = Callable[..., "subprocess.CompletedProcess[str]"]
QUICK = ["--temp", "0", "--max-tokens", "6", "--ctx", "512", "--threads", "1"]
"""One thread: two of llama.cpp's wait for each other by spinning, which a busy machine pays for."""
PROMPT = r"\n(\x1b\[\?2004h)?> "


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A home of its own, in which the intended use was acknowledged."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HOME": str(tmp_path / "home"),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PEDSUP_ACCEPT_INTENDED_USE": "1",
        "LANG": "C.UTF-8",
        "INPUTRC": os.devnull,
        "NO_COLOR": "1",
    }


@pytest.fixture
def run(env: dict[str, str]) -> Run:
    """Run the program without a terminal."""

    def call(*arguments: object, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        return programs.run("pedsup", *arguments, stdin=stdin, env={**env, **more})

    return call


def refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """A clear message, an exit code, no traceback, and nothing on standard output."""
    assert done.returncode != 0
    assert done.stderr.startswith("error: ") or "\nerror: " in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    for part in parts:
        assert part in done.stderr, (part, done.stderr)


# ---- one question ----


def test_one_question_on_both_channels(run: Run, smollm2: Path) -> None:
    done = run(smollm2, "-p", "Say hello.", *QUICK)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert done.stdout.endswith("\n")
    assert done.stderr.startswith(SHORT["en"] + "\n")


def test_json_is_one_document_and_standard_input_the_question(run: Run, smollm2: Path) -> None:
    done = run(smollm2, "--json", "--seed", "5", "--lang", "es", *QUICK, stdin="Say hello.\n")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["answer"].strip()
    assert document["reasoning"] == ""
    assert document["stop_reason"] in ("end", "length")
    assert document["tokens"]["answer"] <= 6
    assert document["tokens"]["prompt"] > 10
    assert document["timings"]["first_token_s"] > 0
    assert document["sampling"]["seed"] == 5
    assert document["intended_use"] == {"short": SHORT["es"], "full": FULL["es"]}
    assert document["model"]["file"] == smollm2.name
    plain = run(smollm2, "-p", "Say hello.", *QUICK)
    assert plain.stdout.strip() == document["answer"].strip()  # greedy: the same text


@pytest.mark.slow
def test_the_server_engine_gives_the_same_document(run: Run, smollm2: Path, native_tool) -> None:  # type: ignore[no-untyped-def]
    server = {"PEDSUP_LLAMA_SERVER": str(native_tool("llama-server"))}
    documents = [
        json.loads(run(smollm2, "-p", "Hi.", "--json", "--engine", engine, *QUICK, **server).stdout)
        for engine in ("inprocess", "server")
    ]
    assert "llama-server" in documents[1]["engine"]
    assert documents[0]["tokens"]["prompt"] == documents[1]["tokens"]["prompt"]
    assert documents[0]["answer"].strip()
    assert documents[1]["answer"].strip()


def test_a_shell_loop_keeps_its_standard_input(env: dict[str, str], smollm2: Path) -> None:
    command = " ".join([sys.executable, "-m pedsup", str(smollm2), "-p Hi.", *QUICK])
    done = subprocess.run(
        ["sh", "-c", f"{command} >/dev/null 2>&1; cat"],
        input="next question\n", capture_output=True, text=True, env=env, check=False,
    )  # fmt: skip
    assert done.stdout == "next question\n"


@pytest.mark.slow
def test_same_seed_same_text(run: Run, smollm2: Path) -> None:
    warm = ["--temp", "1.5", *QUICK[2:], "--seed", "42"]
    texts = {run(smollm2, "-p", "Tell a story.", *warm).stdout for _ in range(2)}
    assert len(texts) == 1


def test_one_question_leaves_no_transcript(run: Run, smollm2: Path, tmp_path: Path) -> None:
    run(smollm2, "-p", "Hi.", *QUICK)
    assert list((tmp_path / "data").rglob("*.jsonl")) == []


@pytest.mark.slow
def test_a_grammar_and_a_schema_constrain_the_answer(
    run: Run, smollm2: Path, tmp_path: Path
) -> None:
    grammar = tmp_path / "g.gbnf"
    grammar.write_text('root ::= "yes" | "no"\n')
    done = run(smollm2, "-p", "Is fever common?", "--grammar", grammar, *QUICK)
    assert done.stdout.strip() in ("yes", "no")
    schema = tmp_path / "s.json"
    schema.write_text('{"type": "object", "properties": {"urgent": {"type": "boolean"}},'
                      ' "required": ["urgent"], "additionalProperties": false}')  # fmt: skip
    done = run(smollm2, "-p", "Answer in JSON.", "--json-schema", schema, *QUICK,
               "--max-tokens", "40")  # fmt: skip
    assert isinstance(json.loads(done.stdout)["urgent"], bool)
    both = run(smollm2, "-p", "x", "--grammar", grammar, "--json-schema", schema)
    refused(both, "cannot be used together")


def test_version_and_help_are_quick_and_quiet(run: Run) -> None:
    from pedsup import __version__

    assert run("--version").stdout.strip().endswith(__version__)
    text = run("--help").stdout
    assert "not a medical device" in text
    assert FULL["en"].splitlines()[0] in text


def test_importing_has_no_effects(env: dict[str, str], tmp_path: Path) -> None:
    program = "import pedsup.cli.main, pedsup.cli.app, sys; print('llama_cpp' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=env, check=True
    )
    assert done.stdout == "False\n"
    assert done.stderr == ""
    assert not (tmp_path / "data").exists()


# ---- check ----


def test_check_prints_the_plan_and_loads_nothing(run: Run, smollm2: Path) -> None:
    done = run(smollm2, "--check", "--ctx", "2048")
    assert done.returncode == 0
    for part in ("weights", "key/value cache", "45.00 MiB", "Verdict: fits", "Largest context"):
        assert part in done.stdout
    document = json.loads(run(smollm2, "--check", "--json").stdout)
    assert document["largest_ctx"] == document["n_ctx_train"] == 8192
    assert document["verdict"] == "fits"


def test_a_damaged_manifest_is_refused(run: Run, smollm2: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.symlink_to(smollm2)
    (tmp_path / "m.gguf.manifest.json").write_text("{}")
    done = run(model, "--check")
    refused(done, "the manifest beside the model is damaged", "copy the model")
    assert done.returncode == 10


@pytest.mark.slow
def test_what_cannot_fit_is_refused_before_loading(run: Run, smollm2: Path, tmp_path: Path) -> None:
    huge = sized_models.Sizes(200, 16384, 65536, 128, 128, 128, n_vocab=49152)
    model = sized_models.write(tmp_path / "huge.gguf", huge, smollm2)  # 1.3 TB of holes
    done = run(model, "-p", "x")
    refused(done, "of memory", "smaller type or model")
    assert done.returncode == 7


# ---- bad input ----


def test_no_model(run: Run) -> None:
    refused(run("-p", "x"), "no model was given", "pedsup-run model.gguf")


def test_a_model_that_is_not_there(run: Run, tmp_path: Path) -> None:
    refused(run(tmp_path / "none.gguf", "-p", "x"), "no such file")


def test_not_a_gguf(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"PK\x03\x04" + b"\0" * 100)
    done = run(tmp_path / "x.gguf", "-p", "x")
    refused(done, "GGUF")
    assert done.returncode == 3


def test_a_truncated_gguf(run: Run, smollm2: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.gguf"
    shutil.copy(smollm2, short)
    os.truncate(short, smollm2.stat().st_size - 1000)
    refused(run(short, "-p", "x"), "ends inside", "copy it again")


def test_another_architecture(run: Run, smollm2: Path, tmp_path: Path) -> None:
    data = smollm2.read_bytes()
    at = data.index(b"general.architecture") + len(b"general.architecture") + 4 + 8
    assert data[at : at + 5] == b"llama"
    other = tmp_path / "other.gguf"
    other.write_bytes(data[:at] + b"blxxm" + data[at + 5 :])
    done = run(other, "-p", "x")
    refused(done, "blxxm", "gemma4, llama")
    assert done.returncode == 4


def without_template(smollm2: Path, target: Path) -> Path:
    """The same file with the template's key misspelt."""
    data = smollm2.read_bytes()
    assert data.count(b"tokenizer.chat_template") == 1
    target.write_bytes(data.replace(b"tokenizer.chat_template", b"tokenizer.chat_tamplete"))
    return target


def test_no_chat_template(run: Run, smollm2: Path, tmp_path: Path) -> None:
    model = without_template(smollm2, tmp_path / "m.gguf")
    refused(run(model, "-p", "x"), "no chat template")


def test_an_unknown_template_needs_leave(run: Run, smollm2: Path, tmp_path: Path) -> None:
    data = smollm2.read_bytes()
    model = tmp_path / "m.gguf"
    # Inside the template's text: the role marker that it writes.
    at = data.index(b"<|im_start|>", data.index(b"tokenizer.chat_template"))
    model.write_bytes(data[:at] + b"<|im_strat|>" + data[at + 12 :])
    refused(run(model, "-p", "x", *QUICK), "not one that pedsup knows", "--allow-template")
    checked = run(model, "--check")
    assert (checked.returncode, "--allow-template" in checked.stderr) == (4, True)
    assert "Memory for a context" in checked.stdout
    assert run(model, "--check", "--allow-template").returncode == 0
    assert run(model, "-p", "x", "--allow-template", *QUICK).returncode == 0


def test_a_context_larger_than_the_models(run: Run, smollm2: Path) -> None:
    done = run(smollm2, "-p", "x", "--ctx", "10000")
    refused(done, "10000", "at most 8192", "--ctx 8192")
    assert done.returncode == 2


def test_an_answer_cut_by_the_limit_says_so(smollm2: Path, run: Run) -> None:
    done = run(smollm2, "-p", "What is fever?", *QUICK)
    assert done.returncode == 0
    assert "[cut: the token limit was reached" in done.stderr


def test_a_prompt_longer_than_the_context(run: Run, smollm2: Path) -> None:
    done = run(smollm2, "--ctx", "256", "--max-tokens", "4", stdin="fever " * 400)
    refused(done, "fewer than the context of 256 tokens")
    assert done.returncode == 2


def test_an_unknown_option_in_the_settings_file(run: Run, smollm2: Path, tmp_path: Path) -> None:
    (tmp_path / "config/pedsup").mkdir(parents=True)
    (tmp_path / "config/pedsup/settings.toml").write_text("tempp = 0.5\n")
    refused(run(smollm2, "-p", "x"), "unknown key 'tempp'", "did you mean 'temp'?")


def test_an_unknown_option_on_the_command_line(run: Run, smollm2: Path) -> None:
    done = run(smollm2, "--tempp", "1")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "--temp" in done.stderr


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["doctr"], ["no such command or file", "'pedsup-run doctor'"]),
        (["verfy", "--lang", "es"], ["no existe ese comando", "'pedsup-run verify'"]),
        (["--lang", "es", "doctr"], ["no existe ese comando", "'pedsup-run doctor'"]),
        (["--lang=es", "doctr"], ["no existe ese comando", "'pedsup-run doctor'"]),
    ],
)
def test_a_misspelt_command_is_not_called_a_missing_model(
    run: Run, words: list[str], parts: list[str]
) -> None:
    refused(run(*words), *parts)


@pytest.mark.parametrize("lang", [["--lang", "es"], ["--lang=es"]])
def test_the_language_may_come_before_the_command(run: Run, lang: list[str]) -> None:
    done = run(*lang, "sessions")
    assert done.returncode == 0, done.stderr
    assert "No se encontró ninguna conversación" in done.stdout + done.stderr


def test_a_model_named_like_a_command_is_run(run: Run, smollm2: Path, tmp_path: Path) -> None:
    (tmp_path / "doctr").symlink_to(smollm2)
    assert run(tmp_path / "doctr", "--check").returncode == 0


@pytest.mark.parametrize("language", ["en", "es"])
@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_fits_a_phone(run: Run, verb: str | None, language: str) -> None:
    words = [verb] if verb else []
    done = run(*words, "--help", "--lang", language, COLUMNS="40")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 40


def test_no_question(run: Run, smollm2: Path) -> None:
    refused(run(smollm2, stdin="  \n"), "there is no question")


@pytest.mark.slow
def test_the_intended_use_must_be_acknowledged(run: Run, smollm2: Path, tmp_path: Path) -> None:
    refused(run(smollm2, "-p", "x", *QUICK, PEDSUP_ACCEPT_INTENDED_USE=""), "--accept-intended-use")
    done = run(smollm2, "-p", "x", "--accept-intended-use", *QUICK, PEDSUP_ACCEPT_INTENDED_USE="")
    assert done.returncode == 0
    assert (tmp_path / "data/pedsup/intended-use.json").is_file()
    again = run(smollm2, "-p", "x", *QUICK, PEDSUP_ACCEPT_INTENDED_USE="")
    assert again.returncode == 0


def test_a_broken_pipe_is_quiet(env: dict[str, str], smollm2: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "pedsup", str(smollm2), "-p", "Tell a long story.",
         "--max-tokens", "200", *QUICK[4:]],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.read(3)
    child.stdout.close()
    errors = child.stderr.read().decode()
    assert child.wait() == 141
    child.stderr.close()
    first, warning = errors.splitlines()
    assert first == SHORT["en"]
    assert warning.startswith("WARNING: this file is not signed")


# ---- a session on a terminal ----


@pytest.mark.slow
def test_a_session_with_smollm2(env: dict[str, str], smollm2: Path, tmp_path: Path) -> None:
    """First run: the intended use; then a question, Ctrl-C, a second session, resuming."""
    env["PEDSUP_ACCEPT_INTENDED_USE"] = ""
    command = [sys.executable, "-m", "pedsup", str(smollm2), *QUICK[4:], "--temp", "0"]
    with Terminal(command, env) as terminal:
        terminal.expect("not a medical device")
        terminal.expect("Type 'yes'")
        terminal.line("yes")
        terminal.expect(PROMPT)
        terminal.line("Count from 1 to 100, all numbers.")
        terminal.expect(r"1.*2.*3")
        terminal.press("C")
        terminal.expect(r"\[stopped\]")
        terminal.expect(PROMPT)
        terminal.line("/stats")
        assert "end: interrupted" in terminal.expect("session: ")
        terminal.expect(PROMPT)
        (path,) = (tmp_path / "data/pedsup/sessions").glob("*.jsonl")
        assert path.stat().st_mode & 0o777 == 0o600
        second = subprocess.run(
            [*command, "--resume", "-p", "x"], env=env, capture_output=True, text=True,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        refused(second, "open in another session")
        terminal.press("D")
        terminal.expect("is kept")
        assert terminal.wait() == 0
    again = subprocess.run(
        [sys.executable, "-m", "pedsup", "--resume", "--json", "-p", "Go on.", *QUICK],
        env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr  # --resume alone knows the model
    assert json.loads(again.stdout)["session"] == path.stem
    types = [json.loads(line)["type"] for line in path.read_text().splitlines()]
    assert types.count("user") == types.count("assistant") == 2


def test_refusing_the_intended_use_ends_the_program(env: dict[str, str], smollm2: Path) -> None:
    env["PEDSUP_ACCEPT_INTENDED_USE"] = ""
    with Terminal([sys.executable, "-m", "pedsup", str(smollm2)], env) as terminal:
        terminal.expect("Type 'yes'")
        terminal.line("no")
        terminal.expect("not acknowledged")
        assert terminal.wait() == 2


def test_a_session_without_a_question_leaves_no_file(
    env: dict[str, str], smollm2: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "pedsup", str(smollm2), *QUICK[4:]]
    with Terminal(command, env) as terminal:
        terminal.expect(PROMPT)
        terminal.press("D")
        assert terminal.wait() == 0
    assert list((tmp_path / "data/pedsup/sessions").iterdir()) == []


@pytest.fixture
def read_only(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A folder on a read-only file system (root writes through modes)."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)]
    if os.getuid() == 0:
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("this container may not mount: run the tests as an ordinary user")
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
    else:
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


@pytest.mark.slow
def test_a_read_only_home_is_said_before_the_first_question(
    env: dict[str, str], run: Run, smollm2: Path, read_only: Path
) -> None:
    env["XDG_DATA_HOME"] = env["XDG_CACHE_HOME"] = str(read_only)
    command = [sys.executable, "-m", "pedsup", str(smollm2), *QUICK[4:]]
    with Terminal(command, env) as terminal:
        terminal.expect("error: this folder cannot be created")
        terminal.expect("--no-history")
        assert terminal.wait() == 6
    with Terminal([*command, "--no-history", "--max-tokens", "5"], env) as terminal:
        terminal.expect(PROMPT)
        terminal.line("Hi.")
        terminal.expect(r"\w")
        terminal.expect(PROMPT)
        terminal.press("D")
        assert terminal.wait() == 0
    assert run(smollm2, "-p", "Hi.", *QUICK, XDG_DATA_HOME=str(read_only)).returncode == 0


# ---- nothing leaves the device ----


def test_no_socket_is_opened_in_process(env: dict[str, str], smollm2: Path) -> None:
    """Every system call of a whole run, as the kernel sees it."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed: apt-get install strace")
    done = subprocess.run(
        [strace, "-f", "-qq", "-e", "trace=network", "-e", "signal=none", "-o", "/dev/stderr",
         sys.executable, "-m", "pedsup", str(smollm2), "-p", "Hi.", *QUICK],
        stdin=subprocess.DEVNULL, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "ptrace" in done.stderr and done.returncode:
        pytest.skip("strace may not trace here: allow ptrace")
    assert done.returncode == 0, done.stderr
    calls = [line for line in done.stderr.splitlines() if re.search(r"\w+\(", line)]
    assert calls == [], calls


def test_the_guard_sees_a_socket(env: dict[str, str]) -> None:
    """What the test above looks for would be there."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed: apt-get install strace")
    program = "import socket; s = socket.socket(); s.connect_ex(('127.0.0.1', 9)); s.close()"
    done = subprocess.run(
        [strace, "-f", "-qq", "-e", "trace=network", sys.executable, "-c", program],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("strace may not trace here: allow ptrace")
    assert "connect(" in done.stderr


@pytest.mark.slow
def test_the_server_engine_talks_to_this_device_only(
    env: dict[str, str], smollm2: Path, native_tool
) -> None:  # type: ignore[no-untyped-def]
    """It must use sockets; all addresses are the loopback."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed: apt-get install strace")
    env["PEDSUP_LLAMA_SERVER"] = str(native_tool("llama-server"))
    done = subprocess.run(
        [strace, "-f", "-qq", "-e", "trace=connect,bind,sendto,sendmsg", "-e", "signal=none",
         sys.executable, "-m", "pedsup", str(smollm2), "-p", "Hi.", *QUICK, "--engine", "server"],
        stdin=subprocess.DEVNULL, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "ptrace" in done.stderr and done.returncode:
        pytest.skip("strace may not trace here: allow ptrace")
    assert done.returncode == 0, done.stderr
    addresses = set(
        re.findall(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"', done.stderr)
    )
    assert addresses == {("127.0.0.1", "")}
    assert socket.AF_INET  # the only family seen


@pytest.mark.slow  # the test above sees every system call
def test_it_works_without_any_network(env: dict[str, str], smollm2: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rn", "true"], check=False).returncode:
        pytest.skip("unshare -n is not allowed here: run as root or allow user namespaces")
    done = subprocess.run(
        [unshare, "-rn", sys.executable, "-m", "pedsup", str(smollm2), "-p", "Hi.", *QUICK],
        stdin=subprocess.DEVNULL, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


# ---- ends that are not the model's ----


def test_ctrl_c_in_one_question_leaves_what_there_is(env: dict[str, str], smollm2: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "pedsup", str(smollm2), "-p", "Count from 1 to 200.", *QUICK[4:],
         "--temp", "0"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env,
    )  # fmt: skip
    assert child.stdout is not None
    first = child.stdout.read(4)
    child.send_signal(signal.SIGINT)
    rest, errors = child.communicate(timeout=120)
    assert child.returncode == 130
    assert (first + rest).decode().strip()
    assert b"Traceback" not in errors


@pytest.mark.slow
def test_a_killed_server_is_told_in_plain_words_and_loses_nothing(
    env: dict[str, str], smollm2: Path, tmp_path: Path, native_tool
) -> None:  # type: ignore[no-untyped-def]
    """Ctrl-C stops the answer and not the child; a killed child is started again."""
    env["PEDSUP_LLAMA_SERVER"] = str(native_tool("llama-server"))
    command = [sys.executable, "-m", "pedsup", str(smollm2), *QUICK[4:], "--engine", "server"]
    with Terminal([*command, "--temp", "0"], env) as terminal:
        terminal.expect(PROMPT)
        terminal.line("Count from 1 to 200.")
        terminal.expect(r"1.*2.*3")
        terminal.press("C")
        terminal.expect(r"\[stopped\]")
        terminal.expect(PROMPT)
        terminal.line("Again: count from 1 to 200.")
        terminal.expect(r"1.*2.*3")
        children = Path(f"/proc/{terminal.pid}/task/{terminal.pid}/children").read_text().split()
        assert len(children) == 1
        os.kill(int(children[0]), signal.SIGKILL)
        terminal.expect(r"error: llama-server was killed.*SIGKILL.*smaller --ctx")
        terminal.expect("starts the model again")
        terminal.expect(PROMPT)
        terminal.line("Once more: count from 1 to 200.")
        terminal.expect(r"starting the model again.*1.*2.*3")
        terminal.press("C")
        terminal.expect(PROMPT)
        terminal.press("D")
        assert terminal.wait() == 0
        assert "Traceback" not in terminal.output
    (path,) = (tmp_path / "data/pedsup/sessions").glob("*.jsonl")
    answers = [r for line in path.read_text().splitlines()
               if (r := json.loads(line))["type"] == "assistant"]  # fmt: skip
    assert [answer["stop_reason"] for answer in answers] == ["interrupted", "failed", "interrupted"]
    assert all("1" in answer["answer"] for answer in answers)


@pytest.mark.slow
def test_gemma4_reasons_within_its_budget_and_answers(run: Run, gemma4_gguf: Path) -> None:
    """Random weights, so random words; but the channels are the real ones."""
    done = run(gemma4_gguf, "-p", "Hola", "--json", "--think-budget", "12", "--max-tokens", "8",
               "--threads", "1", "--seed", "3", "--ctx", "512")  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["answer"].strip()
    assert document["tokens"]["answer"] <= 8
    for text in (document["answer"], document["reasoning"]):
        assert "channel" not in text
    off = run(gemma4_gguf, "-p", "Hola", "--json", "--think", "off", "--max-tokens", "8",
              "--threads", "1", "--seed", "3", "--ctx", "512")  # fmt: skip
    assert json.loads(off.stdout)["reasoning"] == ""


@pytest.mark.slow
def test_the_system_prompt_is_read_once(run: Run, smollm2: Path, tmp_path: Path) -> None:
    options = ["--system", "You answer in one word. " * 12, "--json", "-p", "Hi.", *QUICK]
    first, second = (json.loads(run(smollm2, *options).stdout) for _ in range(2))
    assert second["answer"] == first["answer"]
    assert first["timings"]["system_s"] > 0
    states = list((tmp_path / "cache/pedsup/prefix").glob("*.state"))
    assert len(states) == 1
    assert states[0].parent.stat().st_mode & 0o077 == 0
    again = json.loads(run(smollm2, *options, "--no-cache").stdout)
    # In one batch, and so with another rounding than in two: not always the same text.
    assert again["tokens"]["prompt"] == first["tokens"]["prompt"]
    assert again["timings"]["system_s"] == 0.0
