"""`make gguf`: what was asked for, by contents; nobody else's file is touched."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from pedsup_testing import programs, tiny_models
from pedsup_testing.slowly import slow_but

from pedsup.errors import UsageError
from pedsup.trust.manifest import manifest_path, read_manifest
from pedsup_tools.gguf_job import job_from, reference_options

ROOT = Path(__file__).parents[2]
EMPTY_GGUF = b"GGUF\3\0\0\0" + bytes(16)
ODD = ("informe final", 'd\'Ana "x"', "$HOME$(x)", "a#b", "~/niño", "año;ls &")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny base, and the adapters of two runs in folders of one name."""
    root = tmp_path_factory.mktemp("models")
    made = {"base": tiny_models.llama(root / "base")}
    for number, run in enumerate(("v0.1", "v0.2")):
        made[run] = tiny_models.lora(root / run / "adapter", made["base"], seed=number + 1)
    return made


def export(folder: Path, *options: str | Path, **files: Path) -> subprocess.CompletedProcess[str]:
    return programs.run(
        "pedsup_export", "run", "--base", files["base"], "--adapter", files["adapter"],
        "--quant", "Q8_0", "--out", folder / "m.gguf", *options,
    )  # fmt: skip


def make(folder: Path, **variables: str | Path) -> subprocess.CompletedProcess[str]:
    """The command of the Makefile, with its variables."""
    names = ("BASE", "ADAPTER", "QUANT", "PHONE", "OUT", "EXPORT_OPTIONS", "GATE", "SIGN_KEY")
    env = {k: v for k, v in os.environ.items() if k not in names}
    env |= {"PYTHONPATH": str(ROOT / "tools"), **{k: str(v) for k, v in variables.items()}}
    return subprocess.run(
        [sys.executable, "-m", "pedsup_tools.gguf", "gguf"],
        capture_output=True, text=True, env=env, cwd=folder, stdin=subprocess.DEVNULL,
    )  # fmt: skip


# ---- what Make passes on ----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["command line", "environment"])
@pytest.mark.parametrize("name", ODD)
def test_make_passes_a_name_on_as_it_was_typed(name: str, how: str, tmp_path: Path) -> None:
    """With a Python that prints what it is given."""
    folder = tmp_path / "venv/bin"
    folder.mkdir(parents=True)
    (tmp_path / "venv/.installed").touch()
    says = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"
    python = folder / "python"
    python.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{says}' \"$@\"\n")
    python.chmod(0o755)
    given = {"OUT": name, "BASE": f"/b/{name}", "ADAPTER": f"{name}/a", "EXPORT_OPTIONS": "--x 'y'"}
    words = [f"{k}={v}" for k, v in given.items()] if how == "command line" else []
    done = subprocess.run(
        ["make", "--silent", "-C", ROOT, "gguf", f"VENV={tmp_path / 'venv'}", *words],
        capture_output=True, text=True, check=True,
        env={**os.environ, **(given if how == "environment" else {})},
    )  # fmt: skip
    arguments, environment = json.loads(done.stdout.splitlines()[-1])
    assert arguments == ["-m", "pedsup_tools.gguf", "gguf"]
    assert {k: environment[k] for k in given} == given


def test_the_defaults() -> None:
    job = job_from({})
    assert str(job.out) == "out/smollm2-pediatric-demo-Q4_K_M.gguf"
    assert str(job.reference) == "out/smollm2-pediatric-demo-Q4_K_M-reference.gguf"
    assert job.options == ("--tensor-type", "ffn_down=Q6_K", "--license", "apache-2.0")
    own = job_from({"BASE": "google/gemma-4-E4B-it", "ADAPTER": "/runs/v0.2/", "QUANT": "Q5_K_M"})
    assert (str(own.out), own.reference, own.options) == ("out/v0.2-Q5_K_M.gguf", None, ())
    phone = job_from({"BASE": "/b", "PHONE": "galaxy a15", "GATE": "1"})
    assert phone.kind == ("--phone", "galaxy a15")
    assert str(phone.reference) == "out/b-galaxy-a15-reference.gguf"
    assert job_from({"BASE": "/b", "QUANT": "BF16", "GATE": "1"}).reference is None


def test_the_reference_shares_what_decides_the_merge() -> None:
    given = ["--revision", "abc", "--tensor-type", "x=Q6_K", "--imatrix=i.gguf", "--allow-unused",
             "--json", "--thresholds", "t.toml", "--base-4bit", "b"]  # fmt: skip
    wanted = ["--revision", "abc", "--allow-unused", "--base-4bit", "b"]
    assert reference_options(given) == wanted


@pytest.mark.parametrize(
    "variables",
    [
        {"EXPORT_OPTIONS": "--name 'x"},
        {"OUT": "/tmp/"},
        {"EXPORT_OPTIONS": "--out other.gguf"},
        {"EXPORT_OPTIONS": "--quant=Q4_0"},
        {"EXPORT_OPTIONS": "--languages es", "BASE": "b", "GATE": "1"},
        {"EXPORT_OPTIONS": "--help"},
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(variables: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        job_from(variables)


# ---- the same, or not -------------------------------------------------------------------------


@pytest.mark.slow
def test_another_adapter_of_the_same_name_and_age_is_another_file(
    models: dict[str, Path], tmp_path: Path
) -> None:
    given = {"BASE": models["base"], "QUANT": "Q8_0", "OUT": "informe de Ana's #1 $x.gguf"}
    out = tmp_path / given["OUT"]
    for run in ("v0.1", "v0.2"):
        for path in models[run].iterdir():
            os.utime(path, (1, 1))
        done = make(tmp_path, ADAPTER=models[run], **given)
        assert done.returncode == 0, done.stderr
        checked = programs.run(
            "pedsup_export", "verify", out, "--base", models["base"], "--adapter", models[run]
        )
        assert checked.returncode == 0, checked.stderr
    before = out.stat()
    same = make(tmp_path, ADAPTER=models["v0.2"], **given)
    assert same.returncode == 0 and "up to date" in same.stderr, same.stderr
    assert (out.stat().st_ino, out.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    other = make(tmp_path, ADAPTER=models["v0.2"], **given, EXPORT_OPTIONS="--name 'Otro nombre'")
    assert "made again" in other.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, manifest_path(out).name]


@pytest.mark.slow
def test_each_thing_that_decides_a_file_makes_it_again(
    models: dict[str, Path], tmp_path: Path
) -> None:
    base, adapter = (shutil.copytree(models[n], tmp_path / n) for n in ("base", "v0.1"))

    def ran(*options: str) -> bool:
        done = export(tmp_path, "--force", "--if-changed", *options, base=base, adapter=adapter)
        assert done.returncode == 0, done.stderr
        return "up to date" not in done.stderr

    assert ran()
    assert not ran()
    assert ran("--quant", "Q4_0") and not ran("--quant", "Q4_0")
    assert ran("--merge-dtype", "bfloat16") and ran() and not ran()
    assert ran("--tensor-type", "ffn_down=F16") and ran()
    config = base / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "rope_theta": 12345.0}))
    assert ran() and not ran()
    shutil.copy(models["v0.2"] / "adapter_model.safetensors", adapter)
    assert ran() and not ran()
    # What is at the output must still be what its manifest says.
    out = tmp_path / "m.gguf"
    data = bytearray(out.read_bytes())
    data[-100] ^= 1
    out.write_bytes(data)
    assert ran() and not ran()
    manifest_path(out).unlink()
    assert ran() and not ran()
    assert read_manifest(manifest_path(out)).core["recipe"]["quant"] == "Q8_0"


def test_a_missing_key_is_said_before_anything_is_made(
    models: dict[str, Path], tmp_path: Path
) -> None:
    done = make(tmp_path, BASE=models["base"], OUT="m.gguf", SIGN_KEY="nobody.key")
    assert done.returncode == 2 and "nobody.key" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_statistics_are_made_again_for_another_text(
    models: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(f"{name} child has a fever and coughs. " * 700)
    # Limits so wide that this random model passes its gate.
    (tmp_path / "t.toml").write_text("[default]\nkld_mean = 12\n")
    given = {
        "BASE": models["base"], "ADAPTER": models["v0.1"], "OUT": "m.gguf", "CALIBRATE": "1",
        "EXPORT_OPTIONS": "--thresholds t.toml",
    }  # fmt: skip
    texts = []
    for name in ("one", "one", "two"):
        done = make(tmp_path, **given, CALIBRATION_TEXT=f"{name}.txt")
        assert done.returncode == 0, done.stderr
        core = read_manifest(manifest_path(tmp_path / "m.gguf")).core
        texts.append((core["recipe"]["calibrated"]["texts"][0]["name"], "windows" in done.stderr))
    assert texts == [("one.txt", True), ("one.txt", False), ("two.txt", True)]


# ---- whose file it is -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    slow_but(
        {("m.gguf", EMPTY_GGUF), ("m.gguf.sig", b"notes that must stay")},
        product(
            ["m.gguf", "m.gguf.manifest.json", "m.gguf.sig"], [b"notes that must stay", EMPTY_GGUF]
        ),
    ),
)
def test_force_replaces_nobody_else_s_file(
    name: str, content: bytes, models: dict[str, Path], tmp_path: Path
) -> None:
    mine = tmp_path / name
    mine.write_bytes(content)
    done = export(tmp_path, "--force", base=models["base"], adapter=models["v0.1"])
    assert done.returncode == 6
    assert "pedsup did not write" in done.stderr
    assert mine.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", [".m.gguf.partial", ".m.gguf.partial.journal"])
def test_nothing_is_written_through_a_link(
    name: str, models: dict[str, Path], tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"notes that must stay")
    (tmp_path / name).symlink_to(victim)
    done = export(tmp_path, "--force", base=models["base"], adapter=models["v0.1"])
    assert victim.read_bytes() == b"notes that must stay"
    if name.endswith("journal"):  # a file of its own takes the name
        assert done.returncode == 0 and not (tmp_path / "m.gguf").is_symlink()
    else:
        assert done.returncode == 6 and "is a link" in done.stderr
        assert not (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize(("answer", "code"), slow_but([(b"n\n", 6)], [(b"n\n", 6), (b"y\n", 0)]))
def test_on_a_terminal_it_asks(
    answer: bytes, code: int, models: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "m.gguf"
    out.write_bytes(b"mine")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pedsup_export", "run", "--base", models["base"], "--out", out,
         "--quant", "Q8_0", "--force"],
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, answer)
    said = b""
    while True:
        try:
            block = os.read(ours, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not block:
            break
        said += block
    os.close(ours)
    assert process.wait() == code, said
    assert b"Replace what is there?" in said
    assert (out.read_bytes() == b"mine") is (code != 0)


@pytest.mark.slow
def test_an_older_export_is_ours(models: dict[str, Path], tmp_path: Path) -> None:
    for run in ("v0.1", "v0.2"):
        done = export(tmp_path, "--force", base=models["base"], adapter=models[run])
        assert done.returncode == 0, done.stderr


def test_calibration_makes_the_reference_and_a_budget_needs_it() -> None:
    job = job_from({"BASE": "/b", "OUT": "o.gguf", "CALIBRATE": "1", "BUDGET": "Q4_K_M"})
    assert job.calibrated
    assert job.reference == Path("o-reference.gguf")
    assert job.statistics == Path("o-statistics.gguf")
    for wrong in ({"BUDGET": "Q4_K_M"}, {"CALIBRATE": "1", "GATE": "0"}):
        with pytest.raises(UsageError):
            job_from({"BASE": "/b", "OUT": "o.gguf", **wrong})


def test_the_embedded_default_is_calibrated_where_nothing_else_was_asked_for() -> None:
    assert job_from({}).calibrated
    assert job_from({"ADAPTER": "/runs/v0.2"}).calibrated
    for other in (
        {"BASE": "/b", "GATE": "1"}, {"CALIBRATE": "0"}, {"GATE": "0"}, {"QUANT": "BF16"},
        {"PHONE": "galaxy-a15"}, {"EXPORT_OPTIONS": "--dry-run"},
        {"EXPORT_OPTIONS": "--imatrix=i.gguf"}, {"EXPORT_OPTIONS": "--calibrated s.gguf"},
    ):  # fmt: skip
        assert not job_from(other).calibrated, other
    assert not job_from({}).allocates
    assert job_from({"BUDGET": "4.5bpw"}).allocates
    assert job_from({"PHONE": "galaxy-a15", "CALIBRATE": "1"}).allocates


def test_languages_are_for_the_file_and_not_for_its_reference() -> None:
    job = job_from({"BASE": "base", "LANGUAGES": "es,en", "PHONE": "galaxy-a15", "GATE": "1"})
    assert job.kind == ("--phone", "galaxy-a15", "--languages", "es,en")
    assert job.out.name == "base-galaxy-a15-es-en.gguf" and job.reference is not None
    assert not {"--languages", "--vocabulary"} & set(reference_options(job.options))
    assert job_from({"BASE": "b", "VOCABULARY": "64k"}).kind[-2:] == ("--vocabulary", "64k")
