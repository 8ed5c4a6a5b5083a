"""Signed models as a user runs them: real SmolLM2, real commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pedsup_testing import home, native, programs, signed_models
from pedsup_testing.lazy import needs
from pedsup_testing.terminal import Terminal

from pedsup.trust.bundle import signature_path
from pedsup.trust.manifest import manifest_path

pytestmark = needs("model_signing", "pip install 'pedsup[sign]'")

Run = Callable[..., "subprocess.CompletedProcess[str]"]
QUICK = ["--temp", "0", "--max-tokens", "4", "--ctx", "512", "--threads", "1"]
REFUSED = 10


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return home.environment(tmp_path)


@pytest.fixture
def run(env: dict[str, str]) -> Run:
    def call(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        return programs.run("pedsup", *arguments, env={**env, **more})

    return call


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> dict[str, Path]:
    """SmolLM2, signed, and the keys of its signer and of a stranger."""
    from pedsup_export.prove.sign import sign

    folder = tmp_path_factory.mktemp("signed")
    model = signed_models.with_manifest(smollm2, folder / "m.gguf")
    lab = signed_models.key_pair(folder / "lab")
    sign(model, lab[0], None)
    return {"model": model, "lab": lab[1], "stranger": signed_models.key_pair(folder / "x")[1]}


@pytest.fixture
def model(files: dict[str, Path], tmp_path: Path) -> Path:
    """A copy that a test may change."""
    target = tmp_path / "models/m.gguf"
    target.parent.mkdir()
    for name in (lambda p: p, manifest_path, signature_path):
        name(target).write_bytes(name(files["model"]).read_bytes())
    return target


def trust(document: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(document)["trust"]
    return found


def trust_name(run: Run) -> str:
    """The one model that must stay signed."""
    (known,) = json.loads(run("trust", "list", "--json").stdout)["models"]
    return str(known["name"])


@pytest.mark.slow
def test_from_a_stranger_s_file_to_a_trusted_one(
    run: Run, model: Path, files: dict[str, Path]
) -> None:
    first = run(model, "-p", "Hi.", *QUICK)
    assert first.returncode == 0, first.stderr
    assert "signed by a key that is not trusted here" in first.stderr
    assert trust(run(model, "--check", "--json").stdout)["signed"] == "unknown-key"
    asked = run("trust", "add", files["lab"])
    assert asked.returncode == 2
    assert "en palabras" in asked.stderr
    assert run("trust", "add", files["lab"], "--yes", "--name", "Hospital").returncode == 0
    check = run(model, "--check")
    assert "Signed by Hospital. It was read in full earlier" in check.stdout
    second = run(model, "-p", "Hi.", "--json", *QUICK)
    assert "WARNING" not in second.stderr
    found = trust(second.stdout)
    assert (found["signed"], found["key_name"], found["warning"]) == ("signed", "Hospital", None)
    assert found["weights"] == "earlier"
    again = run(model, "-p", "Hi.", "--json", "--verify", "--require-signature", *QUICK)
    assert trust(again.stdout)["weights"] == "read"
    listed = json.loads(run("trust", "list", "--json").stdout)
    assert [m["key"] for m in listed["models"]] == [listed["keys"][0]["fingerprint"]]
    assert "Hospital" in run("trust", "list").stdout
    # Now the signature is taken away.
    signature_path(model).unlink()
    refused = run(model, "-p", "Hi.", *QUICK)
    assert refused.returncode == REFUSED
    assert "was signed by Hospital" in refused.stderr
    name = listed["models"][0]["name"]
    assert run("trust", "unpin", name).returncode == 0
    assert run("trust", "remove", "Hospital").returncode == 0
    assert "not signed" in run(model, "-p", "Hi.", *QUICK).stderr


def test_the_verify_verb(run: Run, model: Path, files: dict[str, Path]) -> None:
    done = run("verify", model)
    assert done.returncode == 0, done.stderr
    assert "not trusted here" in done.stdout
    assert "All its bytes were read" in done.stdout
    signed = run("verify", model, "--key", files["lab"], "--json")
    assert trust(signed.stdout)["signed"] == "signed"
    assert json.loads(run("trust", "list", "--json").stdout)["keys"] == []
    other = run("verify", model, "--key", files["stranger"])
    assert other.returncode == REFUSED
    assert "signed by a key other than the one given" in other.stderr
    assert "require_signature" not in other.stderr
    with model.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1000, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    damaged = run("verify", model)
    assert damaged.returncode == REFUSED
    assert "damaged or was changed" in damaged.stderr
    assert "Traceback" not in damaged.stderr
    signature_path(model).unlink()
    manifest_path(model).unlink()
    nothing = run("verify", model)
    assert nothing.returncode == REFUSED
    assert "neither a manifest nor a signature" in nothing.stderr


def test_no_engine_is_started_on_a_changed_file(run: Run, model: Path, tmp_path: Path) -> None:
    """llama-server is a program that leaves a mark: it must not be there."""
    mark, program = tmp_path / "started", tmp_path / "llama-server"
    program.write_text(f"#!/bin/sh\ntouch {mark}\nexit 1\n")
    program.chmod(0o755)
    server = {"PEDSUP_LLAMA_SERVER": str(program)}
    whole = run(model, "-p", "Hi.", "--engine", "server", *QUICK, **server)
    assert mark.exists(), whole.stderr
    mark.unlink()
    with model.open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        file.write(b"\xff")
    done = run(model, "-p", "Hi.", "--engine", "server", *QUICK, **server)
    assert done.returncode == REFUSED
    assert not mark.exists()


def flip(path: Path, at: int) -> None:
    """Change one byte; `at` counts from the end when it is negative."""
    with path.open("r+b") as file:
        file.seek(at, os.SEEK_END if at < 0 else os.SEEK_SET)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


@pytest.fixture
def server(tmp_path: Path) -> tuple[dict[str, str], Path]:
    """A `llama-server` that leaves a mark: whether anything was handed to llama.cpp."""
    mark, program = tmp_path / "started", tmp_path / "llama-server"
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] || touch {mark}\nexit 1\n')
    program.chmod(0o755)
    return {"PEDSUP_LLAMA_SERVER": str(program)}, mark


@pytest.mark.slow
def test_tune_hands_no_changed_or_unsigned_file_to_llama_cpp(
    run: Run, env: dict[str, str], model: Path, server: tuple[dict[str, str], Path], smollm2: Path
) -> None:
    tune, (program, mark) = ("tune", model, "--engine", "server", "--seconds", "5"), server
    whole = run(*tune, **program)
    assert mark.exists(), whole.stderr
    assert "signed by a key that is not trusted here" in whole.stderr
    mark.unlink()
    flip(model, -1000)
    changed = run(*tune, **program)
    assert changed.returncode == REFUSED, changed.stderr
    settings = Path(env["XDG_CONFIG_HOME"]) / "pedsup/settings.toml"
    settings.parent.mkdir(exist_ok=True, parents=True)
    settings.write_text("require_signature = true\n")
    unsigned = run("tune", smollm2, *tune[2:], **program)
    assert unsigned.returncode == REFUSED
    assert "not signed" in unsigned.stderr
    assert not mark.exists()


@pytest.mark.slow
def test_a_draft_model_is_trusted_no_more_than_a_model(
    run: Run,
    model: Path,
    server: tuple[dict[str, str], Path],
    files: dict[str, Path],
    smollm2: Path,
) -> None:
    """llama.cpp reads the drafter too: what holds for a model holds for it."""
    program, mark = server
    ask = ("-p", "Hi.", "--json", *QUICK)
    assert run("trust", "add", files["lab"], "--yes", "--name", "Hospital").returncode == 0
    real = native.tool("llama-server")
    if real is None:
        pytest.skip("llama-server is not built: run `make native`")
    asked = run(model, *ask, "--draft", smollm2, PEDSUP_LLAMA_SERVER=str(real))
    assert f"Its draft model, {smollm2.name}: WARNING: this file is not signed" in asked.stderr
    plain = trust(asked.stdout)
    assert plain["signed"] == "signed"
    assert plain["drafter"]["signed"] == "unsigned"
    assert "this file is not signed" in plain["warning"]
    # From here on as a device that has not seen this model signed.
    assert run("trust", "unpin", trust_name(run)).returncode == 0
    drafter = model.with_name("d.gguf")
    for name in (lambda p: p, manifest_path, signature_path):
        name(drafter).write_bytes(name(model).read_bytes())
    flip(drafter, -1000)
    changed = run(smollm2, *ask, "--draft", drafter, **program)
    assert changed.returncode == REFUSED, changed.stderr
    required = run(model, *ask, "--draft", smollm2, "--require-signature", **program)
    assert required.returncode == REFUSED
    assert "the model is not signed" in required.stderr
    assert not mark.exists()


@pytest.mark.parametrize("engine", ["inprocess", pytest.param("server", marks=pytest.mark.slow)])
def test_a_file_that_is_swapped_while_it_loads_is_refused(
    env: dict[str, str], model: Path, native_tool, engine: str
) -> None:  # type: ignore[no-untyped-def]
    """The real engines open the file by its name, after it was checked; a swap between is seen."""
    swap = (
        "import os, sys\n"
        "from pedsup.run import load as startup\n"
        "opened = startup.open_engine\n"
        "def open_engine(config, choice):\n"
        "    data = config.model.read_bytes()\n"
        "    new = config.model.with_name('new')\n"
        "    new.write_bytes(data)\n"
        "    new.replace(config.model)\n"
        "    return opened(config, choice)\n"
        "startup.open_engine = open_engine\n"
        "from pedsup.cli.main import main\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", swap, str(model), "-p", "Hi.", "--engine", engine, *QUICK],
        env={**env, "PEDSUP_LLAMA_SERVER": str(native_tool("llama-server"))},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == REFUSED, done.stderr
    assert "changed while it was being checked or loaded" in done.stderr
    assert done.stdout == ""


@pytest.mark.slow
def test_the_warning_stands_at_the_start_of_each_session(
    env: dict[str, str], smollm2: Path
) -> None:
    command = [sys.executable, "-m", "pedsup", str(smollm2), "--lang", "es", *QUICK]
    for _ in range(2):
        with Terminal(command, env) as terminal:
            greeting = terminal.expect(r"\n(\x1b\[\?2004h)?> ")
            assert "ATENCIÓN: sin firma (/modelo)." in greeting
            terminal.press("D")
            assert terminal.wait() == 0


def test_a_key_is_added_after_a_question(env: dict[str, str], files: dict[str, Path]) -> None:
    command = [sys.executable, "-m", "pedsup", "trust", "add", str(files["lab"])]
    for answer, code in (("no", 2), ("sí", 0)):
        with Terminal(command, env) as terminal:
            terminal.expect("words that the signer gave")
            terminal.line(answer)
            assert terminal.wait() == code
