"""The unfinished statistics on the disk, so that a killed calibration can continue."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pedsup.errors import BadFileError
from pedsup_export.calibration.record import InputGroup

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Sums = tuple[Floats, Floats | None]


def ranges(groups: Sequence[InputGroup], memory: int) -> list[list[InputGroup]]:
    """Consecutive groups whose sums fit the memory (bytes); at least one group each."""
    cut: list[list[InputGroup]] = [[]]
    for group in groups:
        if cut[-1] and sum(g.n_bytes for g in cut[-1]) + group.n_bytes > memory:
            cut.append([])
        cut[-1].append(group)
    return cut


@dataclass(frozen=True)
class Turn:
    """Groups whose sums are held together, and the place of the first among all of them."""

    start: int
    groups: tuple[InputGroup, ...]

    @property
    def end(self) -> int:
        return self.start + len(self.groups)

    @property
    def name(self) -> str:
        return f"{self.start}-{self.end}"


class Folder:
    """Sums on the disk: `<start>-<end>.npz` of a complete turn, `now.npz` of the one under way.

    Args:
        job: digest of all that decides the sums; a folder of another job is not continued.
    """

    def __init__(self, path: Path, job: str) -> None:
        self.path = path
        mark = path / "job"
        if path.exists() and (not mark.is_file() or mark.read_text() != job):
            self.remove()
        path.mkdir(parents=True, exist_ok=True)
        mark.write_text(job)

    def complete(self, turn: Turn) -> bool:
        """Whether a turn is done."""
        return (self.path / f"{turn.name}.npz").is_file()

    def turns(self, groups: Sequence[InputGroup], memory: int, kept: int) -> list[Turn]:
        """The turns that cover all groups.

        Free memory differs from run to run. So finished turns stay as they were cut, the turn under
        way stays if its sums take at most `kept` bytes, and the rest is cut by `memory` (bytes).
        """
        ends = {}
        for path in self.path.glob("*-*.npz"):
            start, _, end = path.stem.partition("-")
            if start.isdecimal() and end.isdecimal():
                ends[int(start)] = int(end)
        found: list[Turn] = []
        place = 0
        while ends.get(place, 0) > place:
            found.append(Turn(place, tuple(groups[place : ends[place]])))
            place = found[-1].end
        now = self.load("now")
        if now is not None and int(now["at"][0]) == place:
            turn = Turn(place, tuple(groups[place : int(now["at"][1])]))
            if sum(g.n_bytes for g in turn.groups) <= kept:
                found.append(turn)
                place = turn.end
        for part in ranges(groups[place:], memory) if place < len(groups) else ():
            found.append(Turn(place, tuple(part)))
            place = found[-1].end
        return found

    def save(self, name: str, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Write arrays so that the file is whole or absent."""
        partial = self.path / "partial"
        with partial.open("wb") as file:
            np.savez(file, **dict(arrays))  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self.path / f"{name}.npz")

    def load(self, name: str) -> dict[str, NDArray[np.generic]] | None:
        """Arrays written by `save`, or None."""
        path = self.path / f"{name}.npz"
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        except (ValueError, OSError, EOFError) as error:
            raise BadFileError(
                "unfinished statistics are damaged", where=path, remedy="remove the folder"
            ) from error

    def sums(self, turns: Sequence[Turn], owner: str) -> Sums:
        """The finished sums of one group; the others stay on the disk."""
        name = next(t.name for t in turns for g in t.groups if g.owner == owner)
        with np.load(self.path / f"{name}.npz", allow_pickle=False) as file:
            products = file[owner + "/p"] if owner + "/p" in file.files else None
            return file[owner + "/s"], products

    def drop(self, name: str) -> None:
        """Forget arrays."""
        (self.path / f"{name}.npz").unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the folder and what `save` wrote there."""
        for file in [*self.path.glob("*.npz"), self.path / "partial", self.path / "job"]:
            file.unlink(missing_ok=True)
        if self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()
