"""Blocks of 32 weights that lie on a Q4_0 grid: their scale found again, and their bytes.

Quantization-aware training ends with weights that are d * level, level -8..7, stored in 16 bits.
Q4_0 holds such a block as it is, once d is known. ggml takes the extremum over -8, which is d only
where a weight has the level -8. Here the extremum may have any level from 8 down to 1, and d is
extremum / level. A stored weight is a rounding of d * level, so each one bounds d from both sides;
the block is on the grid when these intervals have a common point:

    |w| - half a unit <= |d| * |level| <= |w| + half a unit       for all 32 weights

Nothing is fitted, and a block that is on no grid fails at its first few weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pedsup_export.kernels.dispatch import read_only
from pedsup_export.kernels.lanes.jit import inline, kernel
from pedsup_export.kernels.lanes.vec import bits_float, float_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK: Final = 32
SIZE: Final = 18
MANTISSA_BITS: Final = {"BF16": 8, "F16": 11, "F32": 24}
"""Significant bits of a stored weight, the hidden one included, by dtype."""
SLACK: Final = 2.0**-40
"""Of a bound, for the rounding of the float64 arithmetic below."""
INSIDE: Final = 1.0 - 2.0**-20
"""Half a unit exactly is rounded to the even neighbour: it is not within an odd one's bounds."""


@inline
def _block_bounds(x, at, step, bits):
    """Whether a block is on the grid with steps near `step`.

    With it the bounds of the step, and the largest levels below and above zero.
    """
    unit, last = 2.0 ** (-bits), np.uint32(24 - bits)
    least, most = 0.0, np.inf
    down = up = 0.0
    for i in range(BLOCK):
        value = x[at + i]
        size = np.float64(abs(value))
        count = np.rint(size / step)
        if count == 0.0:
            if size != 0.0:
                return False, least, most, down, up
            continue
        word = float_bits(value)
        half = unit * np.float64(bits_float(word & np.uint32(0x7F800000)))
        if (word >> last) & np.uint32(1):
            half *= INSIDE
        least = max(least, (size - half) / count)
        most = min(most, (size + half) / count)
        if least > most * (1.0 + SLACK):
            return False, least, most, down, up
        if value < 0.0 and count > down:
            down = count
        elif value > 0.0 and count > up:
            up = count
    return True, least, most, down, up


@kernel
def _bounds(x, bits, low, high, level):
    """For each block the bounds of |d|, and the extremum's level with d's sign; 0: on no grid.

    x: float32, flat, with `bits` significant bits. low, high: float64 per block, level: int8 per
    block, the results. A block of zeros is on no grid: ggml has it exact.
    """
    for block in range(x.size // BLOCK):
        at = block * BLOCK
        extreme = 0.0
        for i in range(BLOCK):
            extreme = max(extreme, np.float64(abs(x[at + i])))
        level[block] = 0
        if extreme == 0.0:
            continue
        for top in range(8, 0, -1):
            good, least, most, down, up = _block_bounds(x, at, extreme / top, bits)
            # One end of the range is -8, the other 7: the sign of d says which is which.
            if good and (down <= 7.0 or up <= 7.0):
                level[block] = top if down >= up else -top
                low[block], high[block] = least, most
                break


@kernel
def _pack(x, d, bits, on_grid, out):
    """Write the blocks on a grid: d's float16 bits, then levels, weight i beside 16 + i.

    x: float32, flat. d: float32, bits: uint16, on_grid: bool, per block. out: uint8, flat.
    """
    for block in range(x.size // BLOCK):
        if not on_grid[block]:
            continue
        at, to = block * BLOCK, block * SIZE
        out[to], out[to + 1] = np.uint8(bits[block] & 255), np.uint8(bits[block] >> 8)
        for i in range(BLOCK // 2):
            first = np.int64(np.rint(x[at + i] / d[block])) + 8
            second = np.int64(np.rint(x[at + BLOCK // 2 + i] / d[block])) + 8
            out[to + 2 + i] = np.uint8(first | (second << 4))


def find_scales(
    rows: NDArray[np.float32], dtype: str
) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
    """The scale of every block, and which blocks are on a grid.

    Args:
        rows: float32 [n, m], C-contiguous, m a multiple of 32: stored values of `dtype`.
        dtype: BF16, F16 or F32.

    Returns:
        d float16 [n * m / 32], of the sign that ggml would give it, and bool of that shape. d is
        a value that `dtype` holds where one is within the bounds, as scales in training were of
        that type; else the float16 nearest to their middle.
    """
    count = rows.size // BLOCK
    low, high = np.zeros(count), np.zeros(count)
    level = np.empty(count, np.int8)
    _bounds(read_only(rows.reshape(-1)), MANTISSA_BITS[dtype], low, high, level)
    middle = ((low + high) / 2).astype(np.float32)
    with np.errstate(over="ignore"):
        found = middle.astype(np.float16)
        for offset in (0, 0x10000) if dtype == "BF16" else ():
            # Of the bfloat16 values only the two beside the middle can be within the bounds.
            bits = (middle.view(np.uint32) & np.uint32(0xFFFF0000)) + np.uint32(offset)
            coarse = bits.view(np.float32)
            half = coarse.astype(np.float16)
            within = (coarse >= low * (1 - SLACK)) & (coarse <= high * (1 + SLACK))
            found = np.where(within & (half == coarse), half, found)
    on_grid = (level != 0) & np.isfinite(found) & (found > 0)
    return np.where(level < 0, -found, found), on_grid


def pack_blocks(
    rows: NDArray[np.float32],
    d: NDArray[np.float16],
    on_grid: NDArray[np.bool_],
    out: NDArray[np.uint8],
) -> None:
    """Write the blocks that are on a grid into `out`, uint8 [n, row_bytes]; leave the others.

    Args:
        rows, d, on_grid: as `find_scales` takes and gives them.
    """
    packed = out.reshape(-1)
    _pack(read_only(rows.reshape(-1)), d.astype(np.float32), d.view(np.uint16), on_grid, packed)
