"""Pack float32 rows into ggml's tensor types and back: the one door to every quantizer.

`quantize_rows` gives the bytes that `llama_model_quantize` would write for the same float32
rows, and refuses what llama.cpp refuses: NaN or Inf in, and scales that overflow. Weights that
already lie on a Q4_0 grid are kept by `quantize_on_grid`, not rounded again.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pedsup.errors import BadFileError, UnsupportedError
from pedsup.gguf_file.ggml_types import BY_NAME, GGMLType
from pedsup_export.kernels import dispatch, ggml
from pedsup_export.types.mixture import OVERRIDE_TYPES, REQUIRES_IMATRIX

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.float32]
    Packed = NDArray[np.uint8]
    Backend = Callable[[Rows, GGMLType, Rows | None, Packed], None]

log = logging.getLogger(__name__)
Q4_0: Final = BY_NAME["Q4_0"]
SUPPORTED: Final = frozenset(OVERRIDE_TYPES)
"""Everything else makes ggml_quantize_chunk abort the process."""
MAX_WEIGHTS: Final = 1 << 30
"""Per call into ggml: its loop over BF16 rows counts in a 32-bit int."""


class NonFiniteError(BadFileError):
    """A weight is NaN or infinite, or becomes so in the target type."""


def quantize_rows(
    rows: Rows,
    kind: GGMLType,
    importance: Rows | None = None,
    out: Packed | None = None,
    name: str = "these rows",
) -> Packed:
    """Pack rows into a tensor type.

    Args:
        rows: float32 [n, n_per_row], C-contiguous; n_per_row a multiple of the block size.
        kind: the target type.
        importance: float32 [n_per_row], the importance of each column (imatrix), or None.
            Types without a weighted search (F32, F16, BF16, Q8_0) ignore it, as in llama.cpp.
        out: uint8 [n, row_bytes], C-contiguous, to write into.
        name: the tensor's name, for messages.

    Returns:
        uint8 [n, row_bytes]: `out`, or a new array.

    Raises:
        NonFiniteError: a weight is NaN or Inf, or too large for the type.
        UnsupportedError: a type that cannot be written, or one that needs `importance`.
        ValueError: shapes, dtypes or contiguity are not as said: a mistake of the caller.
    """
    packed = _check(rows, kind, importance, out, name)
    refuse_non_finite(rows, name)
    pack = backend(kind, importance is not None)
    step = max(1, MAX_WEIGHTS // max(1, rows.shape[1]))
    for start in range(0, rows.shape[0], step):
        piece = packed[start : start + step]
        pack(rows[start : start + step], kind, importance, piece)
        if not ggml.is_valid(piece, kind):
            raise _overflow(rows[start : start + step], kind, name, start)
    return packed


def backend(kind: GGMLType, weighted: bool) -> Backend:
    """Which implementation packs this type; all give the same bytes.

    A vector kernel where there is one that agrees with this machine's ggml, else ggml.

    Args:
        kind: the target type.
    """
    found = dispatch.kernel_for(kind, weighted)
    return ggml.quantize_into if found is None else found.quantize_into


def dequantize_rows(packed: Packed, kind: GGMLType, n_per_row: int) -> Rows:
    """Unpack uint8 [n, row_bytes] (C-contiguous) into float32 [n, n_per_row] with ggml's code.

    Raises:
        UnsupportedError: the type cannot be read.
        ValueError: the shape is not that of such rows.
    """
    if kind.name not in SUPPORTED:
        raise UnsupportedError(f"tensor type {kind.name} cannot be unpacked")
    if (
        packed.ndim != 2
        or packed.dtype != np.uint8
        or not packed.flags.c_contiguous
        or packed.shape[1] != kind.row_bytes(n_per_row)
    ):
        raise ValueError(f"packed rows: {packed.dtype} {packed.shape} for {n_per_row} {kind.name}")
    if kind.name == "F32":
        return packed.view(np.float32).copy()
    out = np.empty((packed.shape[0], n_per_row), np.float32)
    ggml.dequantize_into(packed, kind, out)
    return out


def refuse_non_finite(rows: Rows, name: str) -> None:
    """Raise `NonFiniteError` if a weight is NaN or Inf, naming the first one."""
    # Minimum and maximum carry NaN and both infinities, and make no temporary array.
    if not rows.size or (np.isfinite(rows.min()) and np.isfinite(rows.max())):
        return
    row, column = np.argwhere(~np.isfinite(rows))[0]
    raise NonFiniteError(
        f"a weight is {rows[row, column]}",
        where=f"{name}, row {row}, column {column}",
        wanted="finite weights",
        remedy="the checkpoint or the adapter is damaged, or the training diverged: "
        "compare its digest with the source",
    )


def _overflow(rows: Rows, kind: GGMLType, name: str, first_row: int) -> NonFiniteError:
    row, column = np.unravel_index(int(np.abs(rows).argmax()), rows.shape)
    return NonFiniteError(
        f"a weight of {rows[row, column]:g} does not fit {kind.name}",
        where=f"{name}, row {first_row + int(row)}, column {column}",
        wanted="weights whose block scale fits 16-bit floating point",
        remedy="give this tensor another type: --tensor-type NAME=F32",
    )


def _check(
    rows: Rows, kind: GGMLType, importance: Rows | None, out: Packed | None, name: str
) -> Packed:
    """Refuse what would make ggml abort or read past the end; the output array."""
    if kind.name not in SUPPORTED:
        raise UnsupportedError(
            f"tensor type {kind.name} cannot be written",
            where=name,
            wanted=", ".join(OVERRIDE_TYPES),
        )
    if kind.name in REQUIRES_IMATRIX and importance is None:
        raise UnsupportedError(
            f"{kind.name} needs importances, and this tensor has none",
            where=name,
            remedy="give an --imatrix that covers this tensor, or another --tensor-type",
        )
    if rows.ndim != 2 or rows.dtype != np.float32 or not rows.flags.c_contiguous:
        raise ValueError(f"rows must be C-contiguous float32 [n, m], not {rows.dtype} {rows.shape}")
    n_rows, n_per_row = rows.shape
    if importance is not None and (
        importance.shape != (n_per_row,)
        or importance.dtype != np.float32
        or not importance.flags.c_contiguous
    ):
        raise ValueError(f"importance must be float32 [{n_per_row}], not {importance.shape}")
    shape = (n_rows, kind.row_bytes(n_per_row))
    if out is None:
        return np.empty(shape, np.uint8)
    if out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise ValueError(f"out must be C-contiguous uint8 {shape}, not {out.dtype} {out.shape}")
    return out


@cache
def _kernels() -> Any:
    """The kernels, which numba compiles; None where it cannot be imported."""
    try:
        return importlib.import_module("pedsup_export.kernels.lattice")
    except ImportError as error:
        log.warning("weights on a Q4_0 grid are not recognised, for lack of numba: %s", error)
        return None


def grid_share(rows: NDArray[np.float32], dtype: str) -> float:
    """The share of blocks that are on a Q4_0 grid, of those that are not zero.

    Args:
        rows: float32 [n, m], C-contiguous, stored values of `dtype` (BF16, F16, F32; of another
            type none is).
    """
    kernels = _kernels()
    if kernels is None or dtype not in kernels.MANTISSA_BITS or rows.shape[1] % Q4_0.block_size:
        return 0.0
    _, on_grid = kernels.find_scales(rows, dtype)
    blocks = int(rows.reshape(-1, Q4_0.block_size).any(axis=1).sum())
    return int(on_grid.sum()) / blocks if blocks else 0.0


def quantize_on_grid(rows: NDArray[np.float32], dtype: str, name: str) -> NDArray[np.uint8]:
    """Pack rows into Q4_0, uint8 [n, row_bytes]: exact where a block is on a grid, else as ggml.

    Raises:
        NonFiniteError: as `quantize_rows`.
    """
    packed = quantize_rows(rows, Q4_0, name=name)
    d, on_grid = _kernels().find_scales(rows, dtype)
    _kernels().pack_blocks(rows, d, on_grid, packed)
    return packed
