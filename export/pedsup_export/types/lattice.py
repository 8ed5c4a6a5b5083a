"""Q4_0 for weights that already lie on a Q4_0 grid: they are kept, not rounded again."""

from __future__ import annotations

import importlib
import logging
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from pedsup.gguf_file.ggml_types import BY_NAME
from pedsup_export.types.quantize import quantize_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

Q4_0: Final = BY_NAME["Q4_0"]


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
