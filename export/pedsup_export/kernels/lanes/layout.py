"""How rows become lanes: 16 blocks are turned so that a vector holds weight i of each of them."""

from __future__ import annotations

import numpy as np

from pedsup_export.kernels.lanes.jit import inline
from pedsup_export.kernels.lanes.levels import ZERO
from pedsup_export.kernels.lanes.vec import LANES, load, load_transposed, splat, store_mask


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


@inline
def for_lanes(source, width, find, pack, state, target):
    """Quantize all blocks of `width` weights, 16 at a time: the loop that every kernel runs.

    `source` is (x, importance, per_row, weighted) and `target` (out, odd), as in
    `dispatch.Kernel`. `find(columns, importance columns, state)` searches the scales of 16 blocks,
    leaves them in `state`, a tuple of the kernel's own arrays and constants, and gives the odd
    lanes; `pack(x, block, state, lane, out)` writes one block and says whether it is odd.
    """
    x, importance, per_row, weighted = source
    out, odd = target
    count = x.size // width
    columns = np.empty(width * LANES, np.float32)
    column_importance = np.empty(width * LANES if weighted else 0, np.float32)
    rows = np.empty(LANES, np.int64)
    marks = np.empty(LANES, np.uint8)
    for first in range(0, count, LANES):
        lane_offsets(first, count, count, width, rows)
        load_columns(x, rows, width, columns)
        if weighted:
            lane_offsets(first, count, per_row, width, rows)
            load_columns(importance, rows, width, column_importance)
        store_mask(marks, 0, find(columns, column_importance, state))
        for lane in range(min(LANES, count - first)):
            block = first + lane
            odd[block] = marks[lane] | pack(x, block, state, lane, out)
