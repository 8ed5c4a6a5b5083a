"""Which layout each of ggml's types has."""

from __future__ import annotations

from typing import Final

from pedsup_export.rounding.block_layouts import (
    IQ4_VALUES,
    pack_iq4_xs,
    pack_nibble_block,
    pack_q5_0,
    pack_q8_0,
    unpack_iq4_xs,
    unpack_q4_0,
    unpack_q5_0,
    unpack_q8_0,
)
from pedsup_export.rounding.grid import Grid, Layout, values_of
from pedsup_export.rounding.k_layouts import (
    pack_q2,
    pack_q3,
    pack_q4k,
    pack_q5k,
    pack_q6,
    unpack_q2,
    unpack_q3,
    unpack_q4k,
    unpack_q5k,
    unpack_q6,
)

__all__ = ["LAYOUTS", "Grid", "Layout", "values_of"]

_ALONE: Final = (1, 1)
_NONE: Final = (0, 0)

LAYOUTS: Final = {
    layout.name: layout
    for layout in (
        Layout("Q2_K", 84, 256, 16, 4, 0, (0, 15), (0, 15), unpack_q2, pack_q2),
        Layout("Q3_K", 110, 256, 16, 8, -4, (-32, 31), _NONE, unpack_q3, pack_q3),
        Layout("Q4_K", 144, 256, 32, 16, 0, (0, 63), (0, 63), unpack_q4k, pack_q4k),
        Layout("Q5_K", 176, 256, 32, 32, 0, (0, 63), (0, 63), unpack_q5k, pack_q5k),
        Layout("Q6_K", 210, 256, 16, 64, -32, (-128, 127), _NONE, unpack_q6, pack_q6),
        Layout("Q4_0", 18, 32, 32, 16, -8, _ALONE, _NONE, unpack_q4_0, pack_nibble_block),
        Layout("Q5_0", 22, 32, 32, 32, -16, _ALONE, _NONE, unpack_q5_0, pack_q5_0),
        Layout("Q8_0", 34, 32, 32, 256, -128, _ALONE, _NONE, unpack_q8_0, pack_q8_0),
        Layout("IQ4_XS", 136, 256, 32, 16, 0, (-32, 31), _NONE, unpack_iq4_xs, pack_iq4_xs,
               IQ4_VALUES),
        Layout("IQ4_NL", 18, 32, 32, 16, 0, _ALONE, _NONE, unpack_q4_0, pack_nibble_block,
               IQ4_VALUES),
    )
}  # fmt: skip
"""Type name -> layout."""
