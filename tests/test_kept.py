"""What the tests keep of their models is found by what it was made from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pedsup_testing import kept


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(kept.ROOT, str(tmp_path / "kept"))
    return tmp_path / "kept"


def maker(made: list[object]):  # type: ignore[no-untyped-def]
    @kept.kept
    def make(folder: Path, base: Path | None = None, *, seed: int = 0) -> Path:
        made.append(seed)
        folder.mkdir(exist_ok=True)
        (folder / "weights").write_text(f"{seed} {base and base.read_text()}")
        return folder

    return make


def test_the_same_is_made_once_and_copied(tmp_path: Path) -> None:
    made: list[object] = []
    make = maker(made)
    for name in ("a", "b"):
        folder = make(tmp_path / name, seed=3)
        assert (folder / "weights").read_text() == "3 None"
        (folder / "weights").write_text("changed by a test")
    make(tmp_path / "c", seed=4)
    assert made == [3, 4]


def test_an_argument_is_its_contents(tmp_path: Path) -> None:
    made: list[object] = []
    make = maker(made)
    base = tmp_path / "base"
    for text in ("one", "two", "one"):
        base.write_text(text)
        folder = make(tmp_path / f"of {len(list(tmp_path.iterdir()))}", base)
        assert (folder / "weights").read_text() == f"0 {text}"
    assert len(made) == 2


def test_what_is_old_is_removed_beside_another_run(root: Path) -> None:
    root.mkdir()
    (root / "gone").symlink_to(root / "nowhere")  # as a file that another run has just renamed
    for name in ("old", "new", "old.lock"):
        (root / name).touch()
        if name != "new":
            os.utime(root / name, (0, 0))
    kept.forget_old()
    assert {path.name for path in root.iterdir()} == {"gone", "new", "old.lock"}


def test_what_was_not_finished_is_made_again(root: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyError), kept.entry("x") as (place, there):
            assert not there and not place.exists()
            place.write_text("half")
            raise KeyError
    with kept.entry("x") as (place, there):
        assert not there
        place.write_text("whole")
    with kept.entry("x") as (place, there):
        assert there and place.read_text() == "whole"
