"""A patch in the folder for the phone: install.sh makes the new model of the one that is there."""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
from pedsup_testing import versions
from pedsup_testing.termux import Termux

from pedsup.errors import BadFileError, UsageError
from pedsup.trust.manifest import manifest_path
from pedsup_export.patch.make import make_patch
from pedsup_export.patch.plan import PatchRequest, plan_patch
from pedsup_export.phone.bundle import BundleRequest, plan_bundle, write_bundle

ROOT = Path(__file__).parents[2]
MAIN = f"""import os, subprocess, sys
if sys.argv[1:] == ["--version"]:
    print("pedsup-run, version 9.9")
else:
    os.environ["PYTHONPATH"] = {os.pathsep.join(sys.path)!r}
    sys.exit(subprocess.call([{sys.executable!r}, "-m", "pedsup", *sys.argv[1:]]))
"""
"""What the wheel of this test holds: this very pedsup, in the environment of the test."""
PIP = """import sys, zipfile
target = sys.argv[sys.argv.index("--target") + 1]
for wheel in open(sys.argv[sys.argv.index("--requirement") + 1]):
    zipfile.ZipFile(wheel.strip()).extractall(target)
"""


def wheels(_project: Path, out: Path, _constraints: Path | None) -> None:
    with zipfile.ZipFile(out / "pedsup-9.9-py3-none-any.whl", "w") as wheel:
        wheel.writestr("pedsup/__main__.py", MAIN)
    with zipfile.ZipFile(out / "pip-0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("pip/__main__.py", PIP)


def made(tmp_path: Path, new_name: str) -> tuple[Path, Path, Path]:
    """The old file, the new one, and the folder with the patch."""
    (tmp_path / "lab").mkdir()
    old = versions.version(tmp_path / "v0.2.gguf", 2)
    new = versions.version(tmp_path / "lab" / new_name, 3)
    patch = make_patch(plan_patch(PatchRequest(old, new, tmp_path / "v0.3.patch"))).path
    plan = plan_bundle(BundleRequest(tmp_path / "card" / "pedsup", ROOT, patch=patch))
    return old, new, write_bundle(plan, wheels).folder


def phone(tmp_path: Path, old: Path) -> Termux:
    """A phone that has the old model."""
    termux = Termux(tmp_path / "termux")
    termux.models.mkdir(parents=True)
    for path in (old, manifest_path(old)):
        shutil.copy(path, termux.models)
    return termux


def test_install_applies_the_patch_and_is_done_the_next_time(tmp_path: Path) -> None:
    old, new, card = made(tmp_path, "v0.3.gguf")
    termux = phone(tmp_path, old)
    for _ in range(2):
        done = termux.install(card)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"pedsup-run {termux.models}/v0.3.gguf" in done.stdout
        assert (termux.models / "v0.3.gguf").read_bytes() == new.read_bytes()
        assert (termux.models / "v0.2.gguf").read_bytes() == old.read_bytes()
    assert {p.name for p in termux.models.iterdir()} == {
        "v0.2.gguf", "v0.2.gguf.manifest.json", "v0.3.gguf", "v0.3.gguf.manifest.json",
    }  # fmt: skip


def test_a_phone_without_room_for_both_is_patched_in_place(tmp_path: Path) -> None:
    old, new, card = made(tmp_path, "v0.3.gguf")
    termux = phone(tmp_path, old)
    # df says that 1 MB is free once the program is installed.
    (termux.bin / "df").unlink()
    installed = termux.home / ".local/share/pedsup/app"
    termux.program(termux.bin / "df", f"""#!/bin/sh
[ -n "$(echo {installed}/*/pedsup)" ] && [ -d {installed} ] || exit 1
case $2 in {termux.models}*) printf 'h\\nx 1 1 1000 1\\n' ;; *) exit 1 ;; esac
""")  # fmt: skip
    done = termux.install(card)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (termux.models / "v0.2.gguf").read_bytes() == new.read_bytes()
    assert {p.name for p in termux.models.iterdir()} == {
        "v0.2.gguf", "v0.2.gguf.manifest.json",
    }  # fmt: skip


@pytest.mark.slow
def test_a_new_version_of_the_same_name_is_made_in_place(tmp_path: Path) -> None:
    old, new, card = made(tmp_path, "v0.2.gguf")
    termux = phone(tmp_path, old)
    for _ in range(2):
        done = termux.install(card)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (termux.models / "v0.2.gguf").read_bytes() == new.read_bytes()


@pytest.mark.parametrize("lang", ["en", "es"])
def test_a_phone_without_the_old_model_is_told_so(tmp_path: Path, lang: str) -> None:
    old, _new, card = made(tmp_path, "v0.3.gguf")
    termux = phone(tmp_path, old)
    (termux.models / "v0.2.gguf").unlink()
    done = termux.install(card, "--lang", lang)
    assert done.returncode == 2
    assert "v0.2.gguf" in done.stderr


def test_what_cannot_be_on_the_card_is_refused_before(tmp_path: Path) -> None:
    old = versions.version(tmp_path / "v0.2.gguf", 2)
    (tmp_path / "lab").mkdir()
    new = versions.version(tmp_path / "lab/niños.gguf", 3)
    patch = make_patch(plan_patch(PatchRequest(old, new, tmp_path / "v.patch"))).path
    with pytest.raises(UsageError, match="SD card"):
        plan_bundle(BundleRequest(tmp_path / "card", ROOT, patch=patch))
    patch.write_bytes(patch.read_bytes()[:-9])
    with pytest.raises(BadFileError):
        plan_bundle(BundleRequest(tmp_path / "card", ROOT, patch=patch))
    assert not (tmp_path / "card").exists()
