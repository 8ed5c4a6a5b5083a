"""Erases what this device keeps of conversations (transcripts and caches): a plan, then the act.

Erasing is unlinking. Flash storage and copy-on-write file systems may keep old blocks for a
while, whatever a program writes over them: what protects those is the encryption of the device.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pedsup.crash.marker import MARKS, SUFFIX
from pedsup.files.fsio import try_lock
from pedsup.files.paths import cache_folder, data_folder
from pedsup.messages import Message, message, reason_of
from pedsup.session import transcript
from pedsup.session.listing import SESSION_ID
from pedsup.trust import verified

Kind = Literal[
    "session", "prefix cache", "verified files", "left by a killed engine", "mark of a killed run",
    "unfinished measurement",
]  # fmt: skip

CACHES: Final[dict[str, Kind]] = {
    "prefix": "prefix cache",
    verified.FOLDER: "verified files",
    # What `pedsup-bench` goes on with after an interruption: answers and figures.
    "quality": "unfinished measurement",
    "mcqa": "unfinished measurement",
    "safety": "unfinished measurement",
}
"""Folders below `cache_folder()`, and what is in them."""
_ENGINE_FOLDER: Final = re.compile(r"pedsup-(\d+)-.*")


@dataclass(frozen=True)
class Item:
    """A file to erase."""

    path: Path
    kind: Kind
    size: int


@dataclass(frozen=True)
class ForgetPlan:
    """What would be erased."""

    items: tuple[Item, ...]

    def count(self, kind: Kind) -> tuple[int, int]:
        sizes = [item.size for item in self.items if item.kind == kind]
        return len(sizes), sum(sizes)


@dataclass(frozen=True)
class Forgotten:
    """What was erased, and what was not and why."""

    removed: tuple[Item, ...]
    left: tuple[tuple[Item, Message], ...] = ()


def plan_all(sessions: Path) -> ForgetPlan:
    """Every transcript in a folder, and every cache of this user."""
    items = [*_sessions(sessions)]
    for folder, kind in CACHES.items():
        items += _files(cache_folder() / folder, kind)
    items += _dead_marks(data_folder() / MARKS)
    for left in _engine_folders(Path(tempfile.gettempdir())):
        items += _files(left, "left by a killed engine")
    return ForgetPlan(tuple(items))


def plan_session(path: Path) -> ForgetPlan:
    """One transcript."""
    return ForgetPlan((Item(path, "session", path.stat().st_size),))


def execute(plan: ForgetPlan) -> Forgotten:
    """Erase the files of a plan; what is in use, or cannot be erased, is left and named."""
    removed: list[Item] = []
    left: list[tuple[Item, Message]] = []
    for item in plan.items:
        reason = _erase(item)
        if reason is None:
            removed.append(item)
        else:
            left.append((item, reason))
    for folder in {item.path.parent for item in removed if item.kind != "session"}:
        if not any(folder.iterdir()):
            folder.rmdir()
    return Forgotten(tuple(removed), tuple(left))


def _erase(item: Item) -> Message | None:
    """Unlink a file under the lock that its writer would hold; the reason if it stays."""
    if item.path.is_symlink():
        item.path.unlink()  # the link goes, what it points to is someone's own
        return None
    try:
        fd = os.open(item.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        return reason_of(error)
    try:
        if try_lock(fd) is False:
            return message("open in another session")
        item.path.unlink(missing_ok=True)
    except OSError as error:
        return reason_of(error)
    finally:
        os.close(fd)
    return None


def _sessions(folder: Path) -> Iterator[Item]:
    # A folder of the user's may hold other files too.
    for path in sorted(folder.glob(f"*{transcript.SUFFIX}")) if folder.is_dir() else []:
        if SESSION_ID.fullmatch(path.stem) and path.is_file():
            yield Item(path, "session", path.stat().st_size)


def _files(folder: Path, kind: Kind) -> list[Item]:
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [Item(path, kind, path.stat().st_size) for path in found if path.is_file()]


def _dead_marks(folder: Path) -> Iterator[Item]:
    """Marks of programs that were killed: they name a model and a session."""
    for item in _files(folder, "mark of a killed run"):
        try:
            fd = os.open(item.path.with_suffix(SUFFIX), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            yield item  # what a crash wrote, without its mark
            continue
        try:
            if try_lock(fd) is not False:
                yield item
        finally:
            os.close(fd)


def _engine_folders(temporary: Path) -> Iterator[Path]:
    """Folders of `llama-server` engines whose program is gone, killed before it could tidy up."""
    for path in sorted(temporary.glob("pedsup-*")):
        match = _ENGINE_FOLDER.fullmatch(path.name)
        own = path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.getuid()
        if match and own and not _runs(int(match[1])):
            yield path


def _runs(pid: int) -> bool:
    """Whether the program that had this number may still be there: not when another user, or
    something that is no Python, has the number now."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True
    return b"python" in command or b"pedsup" in command
