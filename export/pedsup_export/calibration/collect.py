"""Sums over the inputs of every matrix, from llama.cpp's forward pass, in bounded memory.

The products of E4B's inputs take about 8 GB. Matrices are therefore taken in the order in which
they are computed, as many at a time as the memory holds; a pass over the windows for one such
range ends behind its last matrix. What is finished is kept in a folder beside the output, so that
a killed run continues where it was.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from pedsup.errors import BadFileError, MismatchError
from pedsup_export.calibration import nodes
from pedsup_export.calibration.forward import ForwardPass
from pedsup_export.calibration.record import InputGroup

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Sums = tuple[Floats, Floats | None]

RUN_LIMIT: Final = 2560
"""Most columns whose products are kept together: more cost more time than they gain."""
OUTPUTS: Final = ("token_embd.weight", "output.weight")
CHECKPOINT_SECONDS: Final = 300.0
_STEP: Final = 32


def weight_name(node: ctypes.Structure) -> str:
    """The matrix that an operation multiplies by; '' for another operation."""
    source = node.src[0]
    name: str = source.contents.name.decode("utf-8", "replace") if source else ""
    return name if name.startswith("blk.") or name in OUTPUTS else ""


def is_matrix(node: ctypes.Structure, kind: str) -> bool:
    """Whether an operation is a matrix of the model times activations, as llama-imatrix sees it."""
    if kind != "MUL_MAT" or not node.src[1]:
        return False
    return bool(node.src[1].contents.type == nodes.F32 and weight_name(node).endswith(".weight"))


def run_of(n_columns: int) -> int:
    """Columns per run of second moments: the largest equal part within the limit; 0 if none is."""
    for parts in range(1, n_columns // _STEP + 1):
        run, rest = divmod(n_columns, parts)
        if not rest and run <= RUN_LIMIT and (parts == 1 or run % 256 == 0):
            return run
    return 0


def find_groups(model: ForwardPass, tokens: Sequence[int]) -> list[InputGroup]:
    """The model's matrices by common input, in the order in which they are computed."""
    found: dict[int, tuple[list[str], int]] = {}

    def look(node: ctypes.Structure, _kind: str) -> bool:
        source = ctypes.cast(node.src[1], ctypes.c_void_p).value or 0
        names, _ = found.setdefault(source, ([], int(node.src[1].contents.ne[0])))
        names.append(weight_name(node))
        return True

    model.run(tokens, is_matrix, look)
    return [InputGroup(tuple(names), n, run_of(n)) for names, n in found.values()]


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


@dataclass(frozen=True)
class Job:
    """What decides the sums; a folder of another job is not continued."""

    model_digest: str
    tokens_digest: str
    window: int
    groups: tuple[InputGroup, ...]

    @property
    def digest(self) -> str:
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class Folder:
    """Sums on the disk: `<start>-<end>.npz` of a complete turn, `now.npz` of the one under way."""

    def __init__(self, path: Path, job: Job) -> None:
        self.path = path
        mark = path / "job"
        if path.exists() and (not mark.is_file() or mark.read_text() != job.digest):
            self.remove()
        path.mkdir(parents=True, exist_ok=True)
        mark.write_text(job.digest)

    def complete(self, turn: Turn) -> bool:
        """Whether a turn is done."""
        return (self.path / f"{turn.name}.npz").is_file()

    def turns(self, groups: Sequence[InputGroup], memory: int, kept: int) -> list[Turn]:
        """The turns that cover all groups.

        Free memory is another one each time. So what is done stays as it was cut, the turn under
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

    def drop(self, name: str) -> None:
        """Forget arrays."""
        (self.path / f"{name}.npz").unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the folder and what `save` wrote there."""
        for file in [*self.path.glob("*.npz"), self.path / "partial", self.path / "job"]:
            file.unlink(missing_ok=True)
        if self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()


def collect(
    model: ForwardPass,
    windows: Sequence[Sequence[int]],
    turns: Sequence[Turn],
    folder: Folder,
    advance: Callable[[int], object],
) -> None:
    """Fill the folder: one turn after the other, all windows for each.

    Args:
        advance: told how many windows were done (of `len(turns) * len(windows)` in all).

    Raises:
        MismatchError: the model's activations are NaN or Inf, or not those of the first window.
    """
    for turn in turns:
        if folder.complete(turn):
            advance(len(windows))
            continue
        sums = {g.owner: _zeros(g) for g in turn.groups}
        first = _resume(folder, turn, sums)
        advance(first)
        saved = time.monotonic()
        for i in range(first, len(windows)):
            _add_window(model, windows[i], sums, turn.groups)
            advance(1)
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                folder.save("now", {"at": np.array([turn.start, turn.end, i + 1]), **_named(sums)})
                saved = time.monotonic()
        folder.save(turn.name, _named(sums))
        folder.drop("now")


def sums_in(folder: Folder, turns: Sequence[Turn]) -> Mapping[str, Sums]:
    """The finished sums by owner; read when asked for, one turn in memory at a time."""
    return _Lazy(folder, turns)


class _Lazy(Mapping[str, "Sums"]):
    def __init__(self, folder: Folder, turns: Sequence[Turn]) -> None:
        self._files = {g.owner: folder.path / f"{t.name}.npz" for t in turns for g in t.groups}

    def __getitem__(self, owner: str) -> Sums:
        with np.load(self._files[owner], allow_pickle=False) as file:
            products = file[owner + "/p"] if owner + "/p" in file.files else None
            return file[owner + "/s"], products

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _zeros(group: InputGroup) -> Sums:
    squares = np.zeros(group.n_columns, np.float32)
    if not group.run:
        return squares, None
    count = group.n_columns // group.run
    return squares, np.zeros((count, group.run, group.run), np.float32)


def _named(sums: Mapping[str, Sums]) -> dict[str, NDArray[np.generic]]:
    arrays: dict[str, NDArray[np.generic]] = {}
    for owner, (squares, products) in sums.items():
        arrays[owner + "/s"] = squares
        if products is not None:
            arrays[owner + "/p"] = products
    return arrays


def _resume(folder: Folder, turn: Turn, sums: Mapping[str, Sums]) -> int:
    """Take up a turn's sums; the first window that is not in them."""
    saved = folder.load("now")
    if saved is None or saved["at"][:2].tolist() != [turn.start, turn.end]:
        return 0
    for owner, (squares, products) in sums.items():
        squares[:] = saved[owner + "/s"]
        if products is not None:
            products[:] = saved[owner + "/p"]
    return int(saved["at"][2])


def _add_window(
    model: ForwardPass,
    window: Sequence[int],
    sums: Mapping[str, Sums],
    groups: Sequence[InputGroup],
) -> None:
    seen: set[str] = set()
    last = groups[-1].owner

    def wanted(node: ctypes.Structure, kind: str) -> bool:
        return is_matrix(node, kind) and weight_name(node) in sums

    def look(node: ctypes.Structure, _kind: str) -> bool:
        name = weight_name(node)
        squares, products = sums[name]
        x = nodes.values(node.src[1].contents)
        if x.shape != (len(window), len(squares)):
            raise MismatchError(f"'{name}' has an input of shape {x.shape} now")
        added = np.einsum("ij,ij->j", x, x)
        if not np.isfinite(added).all():
            raise MismatchError(
                f"the input of '{name}' holds NaN or Inf",
                wanted="a model whose activations are finite",
                remedy="the merge is damaged or the training diverged: judge it first",
            )
        squares += added
        if products is not None:
            run = products.shape[1]
            for i, product in enumerate(products):
                part = np.ascontiguousarray(x[:, i * run : (i + 1) * run])
                product += part.T @ part  # numpy takes the symmetric BLAS routine
        seen.add(name)
        return name != last

    model.run(window, wanted, look)
    if missing := sums.keys() - seen:
        raise MismatchError(f"llama.cpp did not compute {', '.join(sorted(missing))} this time")
