"""install.sh against a stand-in for Termux: whole, stopped anywhere, damaged, without room."""

from __future__ import annotations

import ensurepip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from pedsup_testing import native
from pedsup_testing.termux import ANDROID, TOOLS, Termux

from pedsup.errors import (
    BadFileError,
    OutputError,
    ResourceError,
    UnsupportedError,
    UntrustedError,
    UsageError,
)
from pedsup.trust.manifest import manifest_document, manifest_path
from pedsup_export.cli import cli as export
from pedsup_export.phone.bundle import BundleRequest, plan_bundle, write_bundle
from pedsup_export.phone.wheels import needed

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
SIZE = 5 * MIB + 12345
VERSION = "pedsup-run, version 9.9"
MAIN = f"""import os, sys
assert sys.flags.safe_path, "a click.py in the working folder would be imported"
print("{VERSION}" if sys.argv[1:] == ["--version"] else sys.argv[1:])
"""
SHELLS = [("dash",), ("busybox", "sh"), ("bash", "--posix")]


PIP = """import sys, zipfile
target = sys.argv[sys.argv.index("--target") + 1]
for wheel in open(sys.argv[sys.argv.index("--requirement") + 1]):
    zipfile.ZipFile(wheel.strip()).extractall(target)
"""
"""A twentieth of the time of the real one, which test_with_the_real_pip and the last tests use."""


def stand_in_wheels(_project: Path, out: Path, _constraints: Path | None) -> None:
    """A pedsup that only tells its version, and a pip that only unpacks."""
    with zipfile.ZipFile(out / "pedsup-9.9-py3-none-any.whl", "w") as wheel:
        info = "pedsup-9.9.dist-info"
        wheel.writestr("pedsup/__main__.py", MAIN)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: pedsup\nVersion: 9.9\n")
        wheel.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr(f"{info}/RECORD", "")
    with zipfile.ZipFile(out / "pip-0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("pip/__main__.py", PIP)


def real_pip(project: Path, out: Path, constraints: Path | None) -> None:
    """The same with the pip that Python brings along."""
    stand_in_wheels(project, out, constraints)
    (out / "pip-0-py3-none-any.whl").unlink()
    (pip,) = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    shutil.copy(pip, out)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF of 5 MiB and a bit, its signature beside it."""
    gguf = pytest.importorskip("gguf", reason="pip install 'pedsup[export]'")
    import numpy as np

    path = tmp_path_factory.mktemp("model") / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    draw = np.random.default_rng(1)
    writer.add_tensor("t", draw.integers(0, 255, SIZE, dtype=np.uint8).view(np.int8))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_name("m.gguf.sig").write_text("a signature")
    return path


@pytest.fixture(scope="module")
def sealed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with its model in parts of 2 MiB, in a folder whose name has spaces."""
    out = tmp_path_factory.mktemp("SD card") / "pedsup phone"
    plan = plan_bundle(BundleRequest(out, ROOT, model, largest_file=2 * MIB, part_bytes=2 * MIB))
    assert plan.model is not None and len(plan.model.parts) == 3
    write_bundle(plan, stand_in_wheels)
    return out


@pytest.fixture
def bundle(sealed: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(sealed, tmp_path / "card" / sealed.name))


@pytest.fixture
def termux(tmp_path: Path) -> Termux:
    return Termux(tmp_path / "termux", env={"PEDSUP_COPY_SLICE": "1"})


def android_dependencies() -> set[str]:
    """What pyproject.toml asks for where sys.platform is 'android'."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return {requirement.name for requirement in needed(project["dependencies"])}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def installed(termux: Termux, model: Path) -> None:
    """The program runs, the model is whole, and nothing half-done is left."""
    done = termux.run("--version")
    assert (done.returncode, done.stdout.strip()) == (0, VERSION), done.stderr
    assert sha256(termux.models / "m.gguf") == sha256(model)
    assert (termux.models / "m.gguf.sig").read_text() == "a signature"
    left = [p for p in termux.root.rglob("*") if "partial" in p.name or p.name == "install.lock"]
    assert left == []
    assert len(list((termux.home / ".local/share/pedsup/app").iterdir())) == 1


@pytest.mark.parametrize("shell", SHELLS, ids=lambda s: s[0])
def test_from_the_card_and_again(shell, bundle, model, termux):
    if not shutil.which(shell[0]):
        pytest.skip(f"apt-get install {shell[0]}")
    termux.shell = (shutil.which(shell[0]), *shell[1:])
    done = termux.install(bundle)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert termux.asked() == ["pkg install -y python llama-cpp"]
    installed(termux, model)
    before = {p: p.stat().st_mtime_ns for p in termux.models.iterdir() if p.suffix == ".gguf"}
    done = termux.install(bundle)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "already installed" in done.stdout
    assert "there already" in done.stdout
    assert before == {p: p.stat().st_mtime_ns for p in before}
    assert len(termux.asked()) == 1
    installed(termux, model)


SERVING = """#!/bin/sh
printf '%s\\n' "$@" >"$HOME/asked"
echo '{"schema": "pedsup-serve/1", "url": "http://127.0.0.1:8765/#abc-_9", "port": 8765}'
"""
"""A pedsup-run that serves: what it was given, and the document that tells where the page is."""


def page(termux: Termux, *arguments: object, program: str) -> tuple[list[str], str]:
    """What the short command gave to pedsup-run, and what was opened."""
    termux.program(termux.bin / "pedsup-run", SERVING)
    termux.program(termux.bin / "termux-open-url", '#!/bin/sh\necho "$1" >"$HOME/opened"\n')
    for name in ("asked", "opened"):
        (termux.home / name).unlink(missing_ok=True)
    subprocess.run(
        [str(termux.root / program), *map(str, arguments)], env=termux.environment(), check=True,
        stdin=subprocess.DEVNULL, cwd=termux.models,
    )  # fmt: skip
    opened = termux.home / "opened"
    return (
        (termux.home / "asked").read_text().splitlines(),
        opened.read_text().strip() if opened.exists() else "",
    )


def test_one_short_command_opens_the_page(bundle, model, termux):
    done = termux.install(bundle)
    assert "\n    pedsup\n" in done.stdout
    installed_model = str(termux.models / "m.gguf")
    url = "http://127.0.0.1:8765/#abc-_9"
    for program in ("usr/bin/pedsup", "home/.shortcuts/pedsup"):
        assert page(termux, program=program) == (["--serve", "--json", installed_model], url)
    # Another model is the one from then on, wherever the command is given.
    other = termux.models / "new one.gguf"
    shutil.copy(model, other)
    words = ["--serve", "--json", "--ctx", "2048", str(other)]
    program = "usr/bin/pedsup"
    assert page(termux, other.name, "--ctx", "2048", program=program)[0] == words
    assert page(termux, program=program)[0] == ["--serve", "--json", str(other)]
    other.unlink()
    assert page(termux, program=program) == ([""], ""), "pedsup-run alone says what there is"
    assert termux.install(bundle, "--uninstall").returncode == 0
    assert not (termux.bin / "pedsup").exists()
    assert not (termux.home / ".shortcuts/pedsup").exists()


def test_the_texts_say_how_much_room_is_needed(bundle, model):
    tenths = -(-(model.stat().st_size + 10**9) // 10**8)
    for name in ("README.txt", "LEEME.txt"):
        text = (bundle / name).read_text("utf-8")
        assert f"{tenths / 10:.1f} GB" in text
        assert "@" not in text


def test_a_dry_run_of_the_folder_writes_nothing(model, tmp_path):
    out = tmp_path / "card" / "pedsup"
    words = ["phone-bundle", "--model", str(model), "--out", str(out), "--dry-run"]
    said = CliRunner().invoke(export, words).stdout
    assert f"{model}, " in said and "must be free" in said
    document = json.loads(CliRunner().invoke(export, [*words, "--json"]).stdout)
    assert document["kind"] == "export-phone-bundle-plan"
    assert document["model"]["files"] == [model.name]
    assert document["bytes_at_most"] == plan_bundle(BundleRequest(out, ROOT, model)).bytes
    assert not out.parent.exists()


@pytest.mark.slow
def test_with_the_real_pip(model, termux, tmp_path):
    out = tmp_path / "pedsup phone"
    write_bundle(plan_bundle(BundleRequest(out, ROOT, model)), real_pip)
    done = termux.install(out)
    assert (done.returncode, done.stderr) == (0, "")
    installed(termux, model)
    (app,) = (termux.home / ".local/share/pedsup/app").iterdir()
    assert (app / "pedsup-9.9.dist-info/INSTALLER").read_text().strip() == "pip"


def with_projector(bundle: Path, octets: bytes) -> str:
    """Put a projector into a bundle, as `phone-bundle` does; its SHA-256."""
    name, digest = "mmproj-m.gguf", hashlib.sha256(octets).hexdigest()
    entry = f"name={name}\nsize={len(octets)}\nsha256={digest}\n"
    (bundle / "models" / name).write_bytes(octets)
    (bundle / "models" / "MMPROJ").write_text(entry)
    with (bundle / "SHA256SUMS").open("a", encoding="ascii") as sums:
        sums.write(f"{digest}  models/{name}\n")
        sums.write(f"{hashlib.sha256(entry.encode()).hexdigest()}  models/MMPROJ\n")
    return digest


def test_the_projector_goes_beside_its_model(bundle, model, termux):
    """A damaged one is refused, a whole one copied once."""
    digest = with_projector(bundle, b"towers" * 1000)
    there, on_card = termux.models / "mmproj-m.gguf", bundle / "models" / "mmproj-m.gguf"
    damage(on_card, 100)
    refused(termux.install(bundle), 3, "the projector is damaged")
    assert not there.exists()
    on_card.write_bytes(b"towers" * 1000)
    assert termux.install(bundle).returncode == 0
    installed(termux, model)
    assert sha256(there) == digest
    before = there.stat().st_mtime_ns
    assert termux.install(bundle).returncode == 0
    assert there.stat().st_mtime_ns == before
    # An older version's, with the same towers: the same bytes are not copied under a second name.
    older, other = there.with_name("mmproj-v0.2.gguf"), there.with_name("mmproj-other.gguf")
    there.rename(older)
    other.write_bytes(b"towerz" * 1000)
    done = termux.install(bundle)
    assert (done.returncode, there.exists()) == (0, False)
    assert f"there already: {older}\n" in done.stdout
    on_card.unlink()
    refused(termux.install(bundle), 3, "files of the projector are missing")


def test_arguments_reach_the_program_unchanged(bundle, termux):
    assert termux.install(bundle, "--no-model").returncode == 0
    words = ["-p", '¿Qué es «esto»? it\'s $HOME \\ "x"', ""]
    assert termux.run(*words).stdout.strip() == str(words)
    assert not termux.models.exists()


@pytest.mark.slow
def test_spanish_by_option_by_locale_and_by_android(bundle, termux):
    """Termux itself says en_US on every phone."""
    termux.env |= {"LC_ALL": "es_PE.UTF-8"}
    done = termux.install(bundle)
    assert "Listo." in done.stdout
    assert "Ready" not in done.stdout
    settings = termux.home / ".config/pedsup/settings.toml"
    assert settings.read_text() == 'lang = "es"\n'
    settings.write_text("# mine\n")
    termux.env |= {"LC_ALL": ""}
    assert "Ready." in termux.install(bundle).stdout
    termux.program(termux.bin / "getprop", "#!/bin/sh\necho es-PE\n")
    assert "Listo." in termux.install(bundle).stdout
    assert settings.read_text() == "# mine\n"
    assert "Ready." in termux.install(bundle, "--lang", "en").stdout


KILL = """#!/bin/sh
echo >>"$HOME/../calls"
n=$(/bin/wc -l <"$HOME/../calls")
at=$(/bin/cat "$HOME/../kill")
[ "$at" -eq 0 ] || [ "$n" -lt "$at" ] || kill -9 0
exec {tool} "$@"
"""
"""A tool that counts all tools' calls and at one of them kills everything, as Android does."""


def count_calls(termux: Termux) -> None:
    for tool in TOOLS:
        if tool not in ("sh", "env"):
            real = (termux.bin / tool).resolve()
            (termux.bin / tool).unlink()
            termux.program(termux.bin / tool, KILL.format(tool=real))


def run_killed(termux: Termux, bundle: Path, at: int) -> int:
    (termux.root / "calls").unlink(missing_ok=True)
    (termux.root / "kill").write_text(str(at))
    done = subprocess.run(
        termux.command(bundle), env=termux.environment(), capture_output=True, check=False,
        start_new_session=True,
    )  # fmt: skip
    return done.returncode


def calls(termux: Termux) -> int:
    return len((termux.root / "calls").read_bytes())


def sweep(termux: Termux, bundle: Path, model: Path, points: Callable[[int], range]) -> int:
    """Kill an installation at each of the points; the next one must end it well."""
    count_calls(termux)
    assert run_killed(termux, bundle, at=0) == 0
    total = calls(termux)
    tried = 0
    for at in points(total):
        for folder in (termux.home, termux.models):
            shutil.rmtree(folder, ignore_errors=True)
        for path in (termux.bin / "pedsup-run", termux.bin / "python", termux.bin / "llama-server"):
            path.unlink(missing_ok=True)
        termux.home.mkdir()
        assert run_killed(termux, bundle, at) == -9
        if (termux.models / "m.gguf").exists():
            assert sha256(termux.models / "m.gguf") == sha256(model)
        assert run_killed(termux, bundle, at=0) == 0
        installed(termux, model)
        tried += 1
    return tried


@pytest.mark.slow
def test_killed_anywhere_and_run_again(bundle, model, termux):
    """PEDSUP_SWEEP=1 tries every command of the script, not only some fifteen of them."""
    every = bool(os.environ.get("PEDSUP_SWEEP"))
    tried = sweep(termux, bundle, model, lambda n: range(1, n + 1, 1 if every else n // 15))
    print(f"killed at {tried} points")
    assert tried >= 15


def test_a_copy_goes_on_where_it_was(bundle, model, termux):
    assert termux.install(bundle, "--no-model").returncode == 0
    partial = termux.models / ".m.gguf.partial"
    partial.parent.mkdir()
    whole = model.read_bytes()
    # Three blocks, and the beginning of a fourth that a kill left torn.
    partial.write_bytes(whole[: 3 * MIB] + b"\0" * 999)
    done = termux.install(bundle)
    assert done.returncode == 0, done.stderr
    percent = 3 * MIB * 100 // len(whole)
    assert f"going on at {percent} %" in done.stdout
    assert done.stdout.count("copied:") == 3
    installed(termux, model)


@pytest.mark.parametrize("left", [b"\0" * (4 * MIB), b"\0" * (9 * MIB)], ids=["holes", "longer"])
def test_a_partial_copy_with_other_bytes_is_copied_again(left, bundle, model, termux):
    """A power cut may leave zeros; and the copy of an earlier model has the same name."""
    partial = termux.models / ".m.gguf.partial"
    partial.parent.mkdir()
    partial.write_bytes(left)
    done = termux.install(bundle)
    assert done.returncode == 0, done.stderr
    installed(termux, model)


def damage(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def refused(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    assert done.returncode == code, done.stdout + done.stderr
    assert "\nerror: " in done.stderr
    for part in parts:
        assert part in done.stderr


def test_a_damaged_model_is_refused_and_named(bundle, termux):
    damage(bundle / "models/m.gguf.part02", MIB)
    refused(termux.install(bundle), 3, "models/m.gguf.part02: FAILED")
    assert list(termux.models.iterdir()) == [termux.models / "m.gguf.sig"] or not [
        p for p in termux.models.iterdir() if p.name.startswith((".m.gguf", "m.gguf"))
    ]


@pytest.mark.slow
def test_a_damaged_installed_model_is_replaced(bundle, model, termux):
    assert termux.install(bundle).returncode == 0
    damage(termux.models / "m.gguf", 4 * MIB)
    done = termux.install(bundle)
    assert "it is damaged" in done.stdout
    installed(termux, model)


@pytest.mark.parametrize("name", ["wheels/pedsup-9.9-py3-none-any.whl", "install.sh", "README.txt"])
def test_a_damaged_file_is_refused_before_anything_is_done(name, bundle, termux):
    damage(bundle / name, 0 if name == "install.sh" else 40)
    if name == "install.sh":
        (bundle / name).write_text("#" + (ROOT / "runtime/termux/install.sh").read_text())
    refused(termux.install(bundle), 3, f"{name}: FAILED")
    assert termux.asked() == []
    assert not (termux.bin / "pedsup-run").exists()


def test_missing_files_are_refused(bundle, termux):
    (bundle / "models/m.gguf.part03").rename(bundle / "models/M3")
    refused(termux.install(bundle), 3, "m.gguf.part03")
    (bundle / "models/M3").rename(bundle / "models/m.gguf.part03")
    os.truncate(bundle / "models/m.gguf.part03", 100)
    refused(termux.install(bundle), 3, "not copied whole", "FAT32")
    (bundle / "SHA256SUMS").write_text("")
    refused(termux.install(bundle), 3, "SHA256SUMS")
    (bundle / "SHA256SUMS").unlink()
    refused(termux.install(bundle), 3, "SHA256SUMS")
    shutil.rmtree(bundle / "wheels")
    refused(termux.install(bundle), 2, "copy all of it")


def test_files_that_a_computer_left_on_the_card_are_not_installed(bundle, model, termux):
    (bundle / "wheels/._pedsup-9.9-py3-none-any.whl").write_bytes(b"\0Mac")
    (bundle / "wheels/evil-1.0-py3-none-any.whl").write_bytes(b"PK")
    (bundle / "models/._m.gguf.part01").write_bytes(b"\0Mac")
    done = termux.install(bundle)
    assert done.returncode == 0, done.stderr
    installed(termux, model)


@pytest.mark.slow
def test_a_forged_model_list_writes_nowhere_else(bundle, termux):
    text = (bundle / "models/MODEL").read_text()
    sums = (bundle / "SHA256SUMS").read_text()
    for line in ("name=../../usr/bin/x.gguf", "name=.bashrc", "size=1;reboot", "parts=$(touch x)"):
        key = line.partition("=")[0]
        forged = "\n".join(line if x.startswith(f"{key}=") else x for x in text.splitlines()) + "\n"
        (bundle / "models/MODEL").write_text(forged)
        old = sha256(bundle / "models/MODEL")
        new = "\n".join(
            f"{old}  models/MODEL" if x.endswith("  models/MODEL") else x for x in sums.splitlines()
        )
        (bundle / "SHA256SUMS").write_text(new + "\n")
        refused(termux.install(bundle), 3, "models/MODEL is damaged")


def test_too_little_room_is_said_before_copying(bundle, termux):
    (termux.bin / "df").unlink()
    termux.program(
        termux.bin / "df",
        "#!/bin/sh\necho 'Filesystem 1024-blocks Used Available Capacity Mounted on'\n"
        "case $2 in */pedsup) free=4000 ;; *) free=9999999 ;; esac\n"
        'echo "/dev/block/dm-5 100 1 $free 1% /data"\n',
    )
    refused(termux.install(bundle), 7, "4 MB are free", "6 MB are needed")
    assert not list(termux.models.glob(".*"))


@pytest.mark.slow
def test_a_write_that_fails_leaves_no_model(bundle, model, termux):
    """A file size limit stands for a full disk."""
    assert termux.install(bundle, "--no-model").returncode == 0
    termux.shell = ("sh", "-c", 'ulimit -f 6000; trap "" XFSZ; exec sh "$@"', "sh")
    refused(termux.install(bundle), 6, "copying stopped")
    assert not (termux.models / "m.gguf").exists()
    termux.shell = ("sh",)
    assert "going on at" in termux.install(bundle).stdout
    installed(termux, model)


def test_without_internet_the_debs_of_the_folder_are_taken(bundle, model, termux):
    (termux.prefix / "offline").touch()
    refused(termux.install(bundle), 8, "could not install: python llama-cpp", "--debs")
    (bundle / "debs").mkdir()
    for name in ("python", "llama-cpp"):
        (bundle / f"debs/{name}_1_aarch64.deb").touch()
    done = termux.install(bundle)
    assert done.returncode == 0, done.stderr
    assert termux.asked()[-1].startswith("dpkg -i ")
    installed(termux, model)


def test_what_is_no_termux_or_no_use_is_refused(bundle, termux):
    termux.program(termux.repository / "llama-cpp/llama-server", "#!/bin/sh\nkill -ILL $$\n")
    refused(termux.install(bundle), 9, "instruction that this processor does not have")
    termux.program(termux.bin / "llama-server", "#!/bin/sh\necho CANNOT LINK EXECUTABLE; exit 1\n")
    refused(termux.install(bundle), 9, "CANNOT LINK EXECUTABLE", "pkg upgrade")
    (termux.bin / "uname").unlink()
    termux.program(termux.bin / "uname", "#!/bin/sh\necho armv8l\n")
    refused(termux.install(bundle), 4, "32-bit")
    (termux.bin / "pkg").unlink()
    refused(termux.install(bundle), 2, "not Termux")
    refused(termux.install(bundle, "--frob"), 2, "--frob")
    refused(termux.install(bundle, "--lang"), 2, "--lang needs a value")
    assert termux.install(bundle, "--help").stdout.count("--model-dir") == 1


@pytest.mark.slow
def test_two_at_once(bundle, termux):
    termux.program(termux.bin / "pkg", "#!/bin/sh\nsleep 60\n")
    first = subprocess.Popen(
        termux.command(bundle), env=termux.environment(), stdout=subprocess.PIPE,
        start_new_session=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        lock = termux.home / ".local/share/pedsup/install.lock/pid"
        while not (lock.exists() and lock.read_text().strip()):
            time.sleep(0.02)
        refused(termux.install(bundle), 6, "another installation is running")
    finally:
        os.killpg(first.pid, 9)
        first.wait()
        first.stdout.close()


@pytest.mark.slow
def test_upgrade_keeps_one_program_and_uninstall_keeps_the_rest(bundle, model, termux):
    termux.program(termux.bin / "pedsup-run", "#!/bin/sh\necho another\n")
    assert termux.install(bundle).returncode == 0
    assert (termux.bin / "pedsup-run.old").exists()
    apps = termux.home / ".local/share/pedsup/app"
    (old,) = apps.iterdir()
    old.rename(apps / "0123456789ab")
    (apps / "torn.partial").mkdir()
    assert termux.install(bundle).returncode == 0
    installed(termux, model)
    (termux.home / ".local/share/pedsup/sessions").mkdir()
    assert termux.install(bundle, "--uninstall").returncode == 0
    assert not (termux.bin / "pedsup-run").exists()
    assert not apps.exists()
    assert (termux.home / ".local/share/pedsup/sessions").is_dir()
    assert (termux.models / "m.gguf").is_file()


def test_shellcheck_and_no_more_tools_than_termux_has():
    if not shutil.which("shellcheck"):
        pytest.skip("apt-get install shellcheck")
    script = ROOT / "runtime/termux/install.sh"
    done = subprocess.run(
        ["shellcheck", "--shell=sh", "--severity=style", script], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


# ---- the folder -------------------------------------------------------------------------------


def test_the_folder_fits_an_sd_card(sealed, model):
    """FAT32: no file of 4 GiB, no two names that differ by case only, no forbidden character."""
    names = [p.relative_to(sealed).as_posix() for p in sealed.rglob("*")]
    assert len({n.lower() for n in names}) == len(names)
    assert not [n for n in names if set(n) & set('"*:<>?\\|') or not n.isascii()]
    assert not [p for p in sealed.rglob("*") if p.is_symlink()]
    done = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=sealed, capture_output=True, text=True, check=True
    )
    listed = {line.rpartition(":")[0] for line in done.stdout.splitlines()}
    assert listed == {n for n in names if (sealed / n).is_file()} - {"SHA256SUMS"}
    parts = sorted((sealed / "models").glob("m.gguf.part*"))
    assert b"".join(p.read_bytes() for p in parts) == model.read_bytes()
    assert [p.stat().st_size for p in parts[:-1]] == [2 * MIB] * (len(parts) - 1)


def test_a_model_that_is_not_there_is_said_with_the_remedy(tmp_path):
    """And make says it too, not `No rule to make target`."""
    with pytest.raises(BadFileError, match="no such model") as caught:
        plan_bundle(BundleRequest(tmp_path / "out", ROOT, tmp_path / "missing.gguf"))
    assert "make gguf" in str(caught.value.remedy)
    said = {}
    for name, path in (("MODEL", tmp_path / "missing.gguf"), ("ADAPTER", ROOT / "README.md")):
        asked = subprocess.run(
            [sys.executable, "-m", "pedsup_tools.gguf", "phone-bundle"],
            cwd=ROOT, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT / "tools"), name: str(path),
                 "BUNDLE": str(tmp_path / "bundle")},
        )  # fmt: skip
        assert asked.returncode != 0
        said[name] = asked.stderr
    assert "no such model" in said["MODEL"] and "make gguf" in said["MODEL"]
    # A file is an adapter to lie beside the model: nothing is merged and no model is made.
    assert "README.md" in said["ADAPTER"] and "GGUF" in said["ADAPTER"], said["ADAPTER"]


def test_the_folder_replaces_its_like_and_nothing_else(model, tmp_path):
    """`--out /media/card --force` must not empty the card."""
    out = tmp_path / "pedsup"
    (out / "DCIM").mkdir(parents=True)
    with pytest.raises(OutputError, match="exists"):
        plan_bundle(BundleRequest(out, ROOT, model))
    with pytest.raises(OutputError, match="DCIM"):
        plan_bundle(BundleRequest(out, ROOT, model, force=True))
    (out / "DCIM").rename(out / "wheels")
    (out / "wheels" / "old.whl").touch()
    write_bundle(plan_bundle(BundleRequest(out, ROOT, model, force=True)), stand_in_wheels)
    assert not (out / "wheels/old.whl").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["pedsup"]
    assert (out / "models/m.gguf").read_bytes() == model.read_bytes()


def test_what_cannot_go_onto_a_card_is_refused(model, tmp_path, monkeypatch):
    out = tmp_path / "pedsup"
    odd = tmp_path / "niño.gguf"
    odd.symlink_to(model)
    with pytest.raises(UsageError, match="SD card"):
        plan_bundle(BundleRequest(out, ROOT, odd))
    with pytest.raises(BadFileError):
        plan_bundle(BundleRequest(out, ROOT, ROOT / "README.md"))
    with pytest.raises(BadFileError, match=r"install\.sh"):
        plan_bundle(BundleRequest(out, tmp_path, model))
    with pytest.raises(UsageError, match="deb"):
        plan_bundle(BundleRequest(out, ROOT, model, debs=tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 8, 1000))
    with pytest.raises(ResourceError, match="free"):
        plan_bundle(BundleRequest(out, ROOT, model))
    assert not out.exists()


def test_a_manifest_of_another_file_is_refused(model, tmp_path):
    """Before copying where the size says it, else when the digest is known."""
    copy = Path(shutil.copy(model, tmp_path / "m.gguf"))
    size = copy.stat().st_size
    for said, digest, found in (
        (size + 1, sha256(copy), "another file"), (size, "0" * 64, "damaged or was changed")
    ):  # fmt: skip
        file = {"name": "m.gguf", "size": said, "sha256": digest}
        document = manifest_document({"tensors": {}}, file, "today")
        manifest_path(copy).write_text(json.dumps(document))
        out = tmp_path / "pedsup"
        with pytest.raises(UntrustedError, match=found):
            write_bundle(plan_bundle(BundleRequest(out, ROOT, copy)), stand_in_wheels)
        assert [p.name for p in tmp_path.iterdir() if "pedsup" in p.name] == []


@pytest.mark.slow
def test_the_real_folder_runs_a_real_model_as_android(tmp_path, smollm2):
    """pedsup's own wheel and its dependencies, no compiler, sys.platform 'android'."""
    server = native.tool("llama-server")
    if server is None:
        pytest.skip("llama-server is not built: run `make native`")
    model = tmp_path / "smollm2.gguf"
    model.symlink_to(smollm2)
    out = tmp_path / "pedsup"
    command = [sys.executable, "-m", "pedsup_export", "phone-bundle", "--model", model, "--out",
               out, "--constraints", ROOT / "tests/constraints.txt", "--json"]  # fmt: skip
    document = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert document["model_sha256"] == sha256(smollm2)
    wheels = {p.name for p in (out / "wheels").iterdir()}
    assert all(name.endswith("-none-any.whl") for name in wheels)
    names = {name.partition("-")[0] for name in wheels}
    assert names >= {*android_dependencies(), "markupsafe", "pedsup", "pip"}
    assert not names & {"llama_cpp_python", "numpy"}

    termux = Termux(tmp_path / "termux")
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(ANDROID)
    python = termux.repository / "python/python"
    text = python.read_text().replace("exec ", f"PYTHONPATH=$PYTHONPATH:{site} exec ")
    python.write_text(text)
    termux.program(termux.repository / "llama-cpp/llama-server", f'#!/bin/sh\nexec {server} "$@"\n')
    done = termux.install(out)
    assert done.returncode == 0, done.stdout + done.stderr
    asked = ("-p", "The capital of France is", "--json", "--temp", 0, "--max-tokens", 8,
             "--ctx", 512, "--threads", 1, "--accept-intended-use")  # fmt: skip
    done = termux.run(termux.models / "smollm2.gguf", *asked)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["engine"].startswith("llama-server")
    assert answer["answer"]
    code = "import sys, json; import pedsup, markupsafe; print(sys.platform, markupsafe.__file__)"
    app = next((termux.home / ".local/share/pedsup/app").iterdir())
    seen = subprocess.run(
        [termux.bin / "python", "-P", "-c", code],
        env={**termux.environment(), "PYTHONPATH": str(app)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert seen.stdout.split() == ["android", str(app / "markupsafe/__init__.py")]
    assert not list(app.rglob("*.so"))

    # The other way in, from the internet: what is for other systems only is not fetched.
    (wheel,) = (out / "wheels").glob("pedsup-*.whl")
    done = termux.install(ROOT / "runtime/termux", "--wheel", wheel)
    assert done.returncode == 0, done.stdout + done.stderr
    assert termux.run("--version").stdout.startswith("pedsup-run, version")
    (app,) = (termux.home / ".local/share/pedsup/app").iterdir()
    assert android_dependencies() | {"markupsafe", "pedsup"} <= {p.name for p in app.iterdir()}
    assert not (app / "llama_cpp").exists()


def test_only_android_s_dependencies_are_wanted():
    """The marker in pyproject.toml, by the library that pip itself uses."""
    names = android_dependencies()
    assert "llama-cpp-python" not in names
    assert {"click", "jinja2", "tqdm"} <= names


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter of one matrix, a signature beside it."""
    gguf = pytest.importorskip("gguf", reason="pip install 'pedsup[export]'")
    import numpy as np

    path = tmp_path / "v0.3.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 16)
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.ones((4, 64), np.float32))
    writer.add_tensor("blk.0.attn_q.weight.lora_b", np.ones((64, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_name("v0.3.gguf.sig").write_text("a signature")
    return path


def test_an_adapter_goes_beside_the_model_that_is_there(adapter, bundle, model, termux, tmp_path):
    assert termux.install(bundle).returncode == 0
    out = tmp_path / "thin card"
    write_bundle(plan_bundle(BundleRequest(out, ROOT, adapter=adapter)), stand_in_wheels)
    done = termux.install(out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sha256(termux.models / "v0.3.gguf") == sha256(adapter)
    assert (termux.models / "v0.3.gguf.sig").read_text() == "a signature"
    assert "--adapter" in done.stdout
    installed(termux, model)


def test_a_damaged_adapter_is_not_installed(adapter, termux, tmp_path):
    out = tmp_path / "thin card"
    write_bundle(plan_bundle(BundleRequest(out, ROOT, adapter=adapter)), stand_in_wheels)
    data = bytearray((out / "models/v0.3.gguf").read_bytes())
    data[-1] ^= 1
    (out / "models/v0.3.gguf").write_bytes(data)
    assert termux.install(out).returncode == 3
    assert not (termux.models / "v0.3.gguf").exists()


def test_a_model_is_no_adapter(model, tmp_path):
    with pytest.raises(UnsupportedError, match="not an adapter"):
        plan_bundle(BundleRequest(tmp_path / "x", ROOT, adapter=model))
