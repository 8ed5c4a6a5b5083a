"""Files on storage that has no locks and no fsync of folders, as Android's shared storage."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from pedsup.errors import OutputError
from pedsup.files.fsio import UNSUPPORTED, atomic_file, fsync_folder, partial_path, try_lock
from pedsup.session.transcript import Transcript


@pytest.fixture(params=sorted(UNSUPPORTED), ids=lambda code: errno.errorcode[code])
def poor_storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system calls answer there; all else is the real thing."""

    def refuse(*_: Any) -> None:
        raise OSError(request.param, os.strerror(request.param))

    real = os.fsync

    def fsync(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").resolve().is_dir():
            refuse()
        real(fd)

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.usefixtures("poor_storage")
def test_a_file_is_written_whole_without_locks(tmp_path: Path) -> None:
    path = tmp_path / "copy.md"
    with atomic_file(path) as file:
        file.write(b"whole")
    assert path.read_bytes() == b"whole"
    assert [left.name for left in tmp_path.iterdir()] == ["copy.md"]
    with path.open("rb") as file:
        assert try_lock(file.fileno()) is None


@pytest.mark.usefixtures("poor_storage")
def test_a_transcript_is_kept_without_locks(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    transcript = Transcript.create(path, {"id": "x"})
    transcript.append({"type": "user", "turn": 1, "text": "hola"})
    transcript.close()
    again, records = Transcript.reopen(path)
    again.close()
    assert [record["type"] for record in records] == ["session", "user"]


def test_a_lock_that_another_has_is_still_respected(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with atomic_file(path) as file, pytest.raises(OutputError, match="another process"):
        assert file
        with atomic_file(path):
            pass


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_fails_is_no_missing_feature(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_fd: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=os.strerror(code)), atomic_file(tmp_path / "a") as file:
        file.write(b"x")
    with pytest.raises(OSError, match=os.strerror(code)):
        fsync_folder(tmp_path)


@pytest.mark.parametrize("kind", ["symlink", "dangling", "hard link", "pipe", "folder"])
def test_what_only_has_the_partial_name_is_not_written_to(kind: str, tmp_path: Path) -> None:
    """Somebody who can write to the folder must not have another file of ours overwritten."""
    victim, path = tmp_path / "victim", tmp_path / "a"
    victim.write_bytes(b"notes that must stay")
    planted = partial_path(path)
    match kind:
        case "symlink":
            planted.symlink_to(victim)
        case "dangling":
            planted.symlink_to(tmp_path / "not there yet")
        case "hard link":
            planted.hardlink_to(victim)
        case "pipe":
            os.mkfifo(planted)
        case _:
            planted.mkdir()
    with (
        pytest.raises(OutputError, match="is a link, or not a regular file"),
        atomic_file(path) as file,
    ):
        file.write(b"x")
    assert victim.read_bytes() == b"notes that must stay"
    assert {left.name for left in tmp_path.iterdir()} == {"victim", planted.name}
