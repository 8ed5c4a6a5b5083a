"""How rows become lanes: 16 blocks are turned so that a vector holds weight i of each of them."""

from __future__ import annotations

from pedsup_export.kernels.jit import inline
from pedsup_export.kernels.levels import ZERO
from pedsup_export.kernels.vec import LANES, load, load_transposed, splat


@inline
def lane_offsets(first, count, period, width, rows):
    """Where the blocks of the 16 lanes start, in weights.

    Lane l has block `first + l`; past the last of `count` blocks the last one again. `period`
    is after how many blocks the source starts over (importances repeat in each row).
    """
    for lane in range(LANES):
        rows[lane] = min(first + lane, count - 1) % period * width


@inline
def load_columns(source, rows, width, columns):
    """`columns[16 * i + lane]` becomes weight i of the lane's block; width is a multiple of 16."""
    for i in range(0, width, LANES):
        load_transposed(source, rows, i, columns, LANES * i)


@inline
def sum_of_squares(columns, n):
    """The sum over the n weights of each lane, one after the other as in C."""
    total = splat(ZERO)
    for i in range(n):
        xi = load(columns, LANES * i)
        total += xi * xi
    return total
