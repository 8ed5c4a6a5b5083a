"""What a kernel is given, and the few blocks it marks as odd, which ggml packs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pedsup_export.kernels import ggml

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pedsup.gguf_file.ggml_types import GGMLType

    Rows = NDArray[np.float32]
    Packed = NDArray[np.uint8]

_WHOLE_ROW: Final = ("Q4_0",)
"""Types whose weighted search looks at the whole row, so that ggml must redo whole rows."""


def read_only(array: Rows) -> Rows:
    """A view for a kernel: numba compiles for read-only arrays apart, and a mapped file's are."""
    view = array.view()
    view.flags.writeable = False
    return view


def redo(
    rows: Rows, kind: GGMLType, importance: Rows | None, out: Packed, odd: NDArray[np.generic]
) -> None:
    """Overwrite the odd blocks of `out` with ggml's.

    Args:
        rows, kind, importance, out: as `ggml.quantize_into`.
        odd: one flag per block, in the order of the weights.
    """
    marked = np.flatnonzero(odd)
    if not marked.size:
        return
    blocks = rows.shape[1] // kind.block_size
    if importance is None:
        _redo_blocks(rows, kind, None, out, marked)
    elif kind.name in _WHOLE_ROW:
        _redo_into(rows, np.unique(marked // blocks), kind, importance, out)
    else:
        for place in np.unique(marked % blocks):
            part = importance[place * kind.block_size : (place + 1) * kind.block_size]
            _redo_blocks(rows, kind, part, out, marked[marked % blocks == place])


def _redo_blocks(
    rows: Rows, kind: GGMLType, importance: Rows | None, out: Packed, marked: NDArray[np.intp]
) -> None:
    """`importance` is that of the columns of the marked blocks."""
    as_rows = rows.reshape(-1, kind.block_size)
    _redo_into(as_rows, marked, kind, importance, out.reshape(-1, kind.type_size))


def _redo_into(
    rows: Rows, marked: NDArray[np.intp], kind: GGMLType, importance: Rows | None, out: Packed
) -> None:
    packed = np.empty((len(marked), out.shape[1]), np.uint8)
    ggml.quantize_into(np.ascontiguousarray(rows[marked]), kind, importance, packed)
    out[marked] = packed
