"""The tensor types of ggml: number, name, weights per block, bytes per block.

Source: `enum ggml_type` in ggml.h and the block structs in ggml-common.h, as of
llama.cpp 0c1e57098; the tests compare every row with the loaded libggml.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pedsup.messages import message


class GGMLType(NamedTuple):
    """One tensor type: `number` in the file, and how many bytes hold how many weights."""

    number: int
    name: str
    block_size: int
    """Weights in one block; a row must be a multiple of it."""
    type_size: int
    """Bytes of one block."""

    def row_bytes(self, n_per_row: int) -> int:
        """Bytes of one row of `n_per_row` weights, which must be a multiple of the block size."""
        if n_per_row % self.block_size:
            raise ValueError(
                message(
                    "{n} weights are not a multiple of {type}'s {block}",
                    n=n_per_row,
                    type=self.name,
                    block=self.block_size,
                )
            )
        return n_per_row // self.block_size * self.type_size


_ROWS = [
    GGMLType(0, "F32", 1, 4),
    GGMLType(1, "F16", 1, 2),
    GGMLType(2, "Q4_0", 32, 18),
    GGMLType(3, "Q4_1", 32, 20),
    GGMLType(6, "Q5_0", 32, 22),
    GGMLType(7, "Q5_1", 32, 24),
    GGMLType(8, "Q8_0", 32, 34),
    GGMLType(9, "Q8_1", 32, 36),
    GGMLType(10, "Q2_K", 256, 84),
    GGMLType(11, "Q3_K", 256, 110),
    GGMLType(12, "Q4_K", 256, 144),
    GGMLType(13, "Q5_K", 256, 176),
    GGMLType(14, "Q6_K", 256, 210),
    GGMLType(15, "Q8_K", 256, 292),
    GGMLType(16, "IQ2_XXS", 256, 66),
    GGMLType(17, "IQ2_XS", 256, 74),
    GGMLType(18, "IQ3_XXS", 256, 98),
    GGMLType(19, "IQ1_S", 256, 50),
    GGMLType(20, "IQ4_NL", 32, 18),
    GGMLType(21, "IQ3_S", 256, 110),
    GGMLType(22, "IQ2_S", 256, 82),
    GGMLType(23, "IQ4_XS", 256, 136),
    GGMLType(24, "I8", 1, 1),
    GGMLType(25, "I16", 1, 2),
    GGMLType(26, "I32", 1, 4),
    GGMLType(27, "I64", 1, 8),
    GGMLType(28, "F64", 1, 8),
    GGMLType(29, "IQ1_M", 256, 56),
    GGMLType(30, "BF16", 1, 2),
    GGMLType(34, "TQ1_0", 256, 54),
    GGMLType(35, "TQ2_0", 256, 66),
    GGMLType(39, "MXFP4", 32, 17),
]

GGML_TYPES: dict[int, GGMLType] = {row.number: row for row in _ROWS}
BY_NAME: dict[str, GGMLType] = {row.name: row for row in _ROWS}
NO_WEIGHTS: Final = frozenset({"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"})
"""Types that ggml has no matrix product for; it would call a null pointer or abort."""
