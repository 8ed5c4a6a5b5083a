"""`pedsup-export verify` and `pedsup-run` as a user meets them, on files that are not right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pedsup_testing import programs
from pedsup_testing.gguf_shapes import SHAPES

from pedsup.trust.manifest import core_digest


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PEDSUP_ACCEPT_INTENDED_USE": "1"}
    done = programs.run(program, *arguments, env=env)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode >= 0, done.stderr
    return done


@pytest.fixture(scope="module")
def exported(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[bytes, bytes]:
    """A file and its manifest, as exported."""
    out = tmp_path_factory.mktemp("exported") / "m.gguf"
    assert run("pedsup_export", "run", "--base", models["llama"], "--out", out).returncode == 0
    return out.read_bytes(), out.with_name("m.gguf.manifest.json").read_bytes()


@pytest.fixture
def model(exported: tuple[bytes, bytes], tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(exported[0])
    path.with_name("m.gguf.manifest.json").write_bytes(exported[1])
    return path


@pytest.mark.parametrize("where", ["header", "tokens", "data"])
def test_a_truncated_file(where: str, model: Path) -> None:
    size = model.stat().st_size
    cut = {"header": 100, "tokens": 5000, "data": size - 100}[where]
    os.truncate(model, cut)
    for done in (run("pedsup_export", "verify", model), run("pedsup", model, "--check")):
        assert done.returncode == 3
        assert done.stdout == ""
        assert "error: " in done.stderr
        assert str(model) in done.stderr
        assert "copy it again and compare its SHA-256" in done.stderr


@pytest.mark.slow
def test_a_flipped_byte_anywhere(model: Path) -> None:
    """In the header the validator or the manifest refuses it, in the data the digest does; the
    phone's `verify` ends with the same code as the exporter's."""
    data = model.read_bytes()
    codes = {}
    for at in (0, 9, 200, 2000, len(data) - 1):
        model.write_bytes(data[:at] + bytes([data[at] ^ 0x04]) + data[at + 1 :])
        for package in ("pedsup_export", "pedsup"):
            done = run(package, "verify", model)
            assert done.stderr.count("error: ") == 1
            assert done.stdout == ""
            codes[at, package] = done.returncode
        assert codes[at, "pedsup"] == codes[at, "pedsup_export"], at
    assert set(codes.values()) == {3, 10}
    assert codes[len(data) - 1, "pedsup"] == 10


@pytest.mark.parametrize("what", ["missing", "no JSON", "changed", "a signature of nothing"])
def test_evidence_that_is_missing_or_damaged_is_code_10(what: str, model: Path) -> None:
    manifest = model.with_name("m.gguf.manifest.json")
    if what == "missing":
        manifest.unlink()
    elif what == "no JSON":
        manifest.write_text("{")
    elif what == "changed":
        manifest.write_bytes(manifest.read_bytes().replace(b"llama", b"lxama", 1))
    else:
        model.with_name("m.gguf.sig").write_text("{}")
    for package in ("pedsup_export", "pedsup"):
        done = run(package, "verify", model)
        assert done.returncode == 10, (package, done.stderr)
        assert "do:" in done.stderr


@pytest.mark.parametrize("name", ["n_dims of 2^31", "two equal tokens", "no layers", "alignment 0"])
@pytest.mark.parametrize("how", [["--check"], ["-p", "x"], ["--resume"]])
def test_a_hostile_file_reaches_no_engine(name: str, how: list[str], tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(SHAPES[name][0].encode())
    done = run("pedsup", path, *how)
    assert done.returncode == 3
    assert SHAPES[name][1] in done.stderr


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("tensors", {}, "list of tensors"),
        ("tensors", [1], "core.tensors"),
        ("recipe", 7, "core.recipe"),
        ("adapter", "x", "core.adapter"),
        ("chat_template_sha256", None, "chat template"),
    ],
)
def test_a_manifest_that_a_forger_sealed_again(
    field: str, value: Any, words: str, model: Path
) -> None:
    """Its own digest is right and stands in the model; verify still refuses it in words."""
    path = model.with_name("m.gguf.manifest.json")
    document = json.loads(path.read_bytes())
    old = document["core_sha256"]
    document["core"][field] = value
    document["core_sha256"] = core_digest(document["core"])
    path.write_text(json.dumps(document))
    data = model.read_bytes()
    assert data.count(old.encode()) == 1
    model.write_bytes(data.replace(old.encode(), document["core_sha256"].encode()))
    done = run("pedsup_export", "verify", model)
    assert done.returncode == 10
    assert words in done.stderr


def test_prompt_in_another_encoding(model: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pedsup", model, "-p", b"ni\xf1o"],
        capture_output=True, stdin=subprocess.DEVNULL,
        env={**os.environ, "PEDSUP_ACCEPT_INTENDED_USE": "1", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert done.returncode == 2
    assert b"not UTF-8" in done.stderr
    assert b"Traceback" not in done.stderr
