"""Sums over the inputs of every matrix, from llama.cpp's forward pass, in bounded memory.

The products of E4B's inputs take about 8 GB. Matrices are therefore taken in the order in which
they are computed, as many at a time as the memory holds; a pass over the windows for one such
range ends behind its last matrix. What is finished is kept in a folder beside the output, so that
a killed run continues where it was.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from pedsup.errors import MismatchError
from pedsup_export.calibration.forward import F32, ForwardPass, node_values
from pedsup_export.calibration.record import InputGroup
from pedsup_export.calibration.work import Folder, Turn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pedsup_export.calibration.work import Sums

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
    return bool(node.src[1].contents.type == F32 and weight_name(node).endswith(".weight"))


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
        x = node_values(node.src[1].contents)
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
