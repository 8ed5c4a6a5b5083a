"""Folders that are whole or not there, also under SIGKILL."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pedsup.errors import OutputError
from pedsup_train.folders import atomic_folder


def test_appears_whole(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a" / "out") as folder:
        (folder / "x").write_text("new")
        assert not (tmp_path / "a" / "out").exists()
    assert (tmp_path / "a" / "out" / "x").read_text() == "new"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["out"]


def test_an_error_keeps_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_text("old")
    with pytest.raises(OutputError, match="not empty"), atomic_folder(tmp_path / "out"):
        pass
    with pytest.raises(ValueError, match="stop"), atomic_folder(tmp_path / "out", force=True) as f:
        (f / "x").write_text("new")
        raise ValueError("stop")
    assert (tmp_path / "out" / "x").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_force_replaces_all_of_it(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    with atomic_folder(tmp_path / "out", force=True) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "x").write_text("new")
    assert {p.name for p in (tmp_path / "out").rglob("*")} == {"sub", "x"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="a file"), atomic_folder(tmp_path / "out", force=True):
        pass
    assert (tmp_path / "out").read_text() == "mine"


def test_two_writers(tmp_path: Path) -> None:
    with (
        atomic_folder(tmp_path / "out") as first,
        pytest.raises(OutputError, match="another process"),
        atomic_folder(tmp_path / "out"),
    ):
        pass
    assert first.name == ".out.partial" and (tmp_path / "out").is_dir()


def test_killed_in_the_middle_the_next_run_works(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_text("old")
    code = (
        "import os, sys\nfrom pathlib import Path\n"
        "from pedsup_train.folders import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1]), force=True) as folder:\n"
        "    (folder / 'x').write_text('half')\n    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "out"])
    assert done.returncode == -9
    assert (tmp_path / "out" / "x").read_text() == "old"
    with atomic_folder(tmp_path / "out", force=True) as folder:
        assert list(folder.iterdir()) == []
        (folder / "y").write_text("new")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["y"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
