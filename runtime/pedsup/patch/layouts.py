"""Where the numbers are in a block of each ggml type, so that differences are taken of numbers.

A code of five bits has four of them in one byte and one in another. As bytes, a code that grows
by one may change two bytes in any way; as a number it changes by one. So a layout names fields:
groups of byte columns (byte c of every block), and which of their bits make up which number.

Source: the block structs in ggml-common.h and `dequantize_row_*` in ggml-quants.c, as of
llama.cpp 0c1e57098. A type without a layout of its own is taken as bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple

from pedsup.gguf_file.ggml_types import BY_NAME, GGMLType


class Part(NamedTuple):
    """Some bits of the numbers of a field."""

    columns: tuple[int, ...]
    """Bytes of the block, one for each number of the field."""
    shift: int
    """Lowest bit in the byte."""
    bits: int
    at: int = 0
    """Lowest bit in the number."""


Field = tuple[Part, ...]


@dataclass(frozen=True)
class Layout:
    """The numbers of a block: every bit of it belongs to exactly one."""

    block_bytes: int
    floats: tuple[tuple[int, ...], ...] = ()
    """Numbers of several whole bytes: the columns of each, lowest byte first."""
    scales: tuple[Field, ...] = ()
    codes: tuple[Field, ...] = ()

    @property
    def streams(self) -> tuple[int, ...]:
        """Bytes of one block's differences: a stream for each byte of the floats, lowest first,
        one for the scales and one for the codes."""
        n_bytes = len(self.floats[0]) if self.floats else 0
        return (
            *(len(self.floats),) * n_bytes,
            sum(len(field[0].columns) for field in self.scales),
            sum(len(field[0].columns) for field in self.codes),
        )


def width(field: Field) -> int:
    """Bits of the numbers of a field."""
    return sum(part.bits for part in field)


@cache
def layout_of(kind: GGMLType) -> Layout:
    """The layout of a type; of one without its own: every byte is a number."""
    made = _LAYOUTS.get(kind.name)
    if made is None:
        return Layout(kind.type_size, codes=((Part(tuple(range(kind.type_size)), 0, 8),),))
    return made


def _span(begin: int, count: int) -> tuple[int, ...]:
    return tuple(range(begin, begin + count))


def _nibbles(columns: tuple[int, ...]) -> tuple[Field, ...]:
    return (Part(columns, 0, 4),), (Part(columns, 4, 4),)


def _five_bits(high: int, low: int) -> tuple[Field, ...]:
    """Q5_0 and Q5_1: bit j of the 32 bits at `high` belongs to code j, 0..15 in low nibbles."""
    fields = []
    for bit in range(8):
        columns = (low + bit, low + 8 + bit)
        for half in (0, 1):
            of_high = (high + 2 * half, high + 2 * half + 1)
            fields.append((Part(columns, 4 * half, 4), Part(of_high, bit, 1, 4)))
    return tuple(fields)


def _k_scales(begin: int) -> tuple[Field, ...]:
    """Q4_K and Q5_K: eight scales and eight minima of six bits in twelve bytes."""
    a, b, c = (_span(begin + 4 * n, 4) for n in range(3))
    return (
        (Part(a, 0, 6),),
        (Part(c, 0, 4), Part(a, 6, 2, 4)),
        (Part(b, 0, 6),),
        (Part(c, 4, 4), Part(b, 6, 2, 4)),
    )


def _q5_k_codes() -> tuple[Field, ...]:
    high = _span(16, 32)
    return tuple(
        (Part(_span(48 + 32 * group, 32), 4 * half, 4), Part(high, 2 * group + half, 1, 4))
        for group in range(4)
        for half in range(2)
    )


def _q6_k_codes() -> tuple[Field, ...]:
    return tuple(
        (
            Part(_span(64 * half + 32 * (n % 2), 32), 4 * (n // 2), 4),
            Part(_span(128 + 32 * half, 32), 2 * n, 2, 4),
        )
        for half in range(2)
        for n in range(4)
    )


def _q3_k_codes() -> tuple[Field, ...]:
    return tuple(
        (Part(_span(32 + 32 * half, 32), 2 * n, 2), Part(_span(0, 32), 4 * half + n, 1, 2))
        for half in range(2)
        for n in range(4)
    )


def _q3_k_scales() -> tuple[Field, ...]:
    return tuple(
        (Part(_span(96 + 4 * (n % 2), 4), 4 * (n // 2), 4), Part(_span(104, 4), 2 * n, 2, 4))
        for n in range(4)
    )


def _iq4_xs_scales() -> tuple[Field, ...]:
    return tuple(
        (Part((4 + n // 2,), 4 * (n % 2), 4), Part((2 + n // 4,), 2 * (n % 4), 2, 4))
        for n in range(8)
    )


_D: Final = ((0, 1),)
_D_AND_M: Final = ((0, 1), (2, 3))
_LAYOUTS: Final[dict[str, Layout]] = {
    "F32": Layout(4, ((0, 1, 2, 3),)),
    "F16": Layout(2, _D),
    "BF16": Layout(2, _D),
    "Q4_0": Layout(18, _D, codes=_nibbles(_span(2, 16))),
    "IQ4_NL": Layout(18, _D, codes=_nibbles(_span(2, 16))),
    "Q4_1": Layout(20, _D_AND_M, codes=_nibbles(_span(4, 16))),
    "Q5_0": Layout(22, _D, codes=_five_bits(2, 6)),
    "Q5_1": Layout(24, _D_AND_M, codes=_five_bits(4, 8)),
    "Q8_0": Layout(34, _D, codes=((Part(_span(2, 32), 0, 8),),)),
    "Q2_K": Layout(
        84,
        ((80, 81), (82, 83)),
        _nibbles(_span(0, 16)),
        tuple((Part(_span(16, 64), 2 * n, 2),) for n in range(4)),
    ),
    "Q3_K": Layout(110, ((108, 109),), _q3_k_scales(), _q3_k_codes()),
    "Q4_K": Layout(144, _D_AND_M, _k_scales(4), _nibbles(_span(16, 128))),
    "Q5_K": Layout(176, _D_AND_M, _k_scales(4), _q5_k_codes()),
    "Q6_K": Layout(210, ((208, 209),), ((Part(_span(192, 16), 0, 8),),), _q6_k_codes()),
    "IQ4_XS": Layout(136, _D, _iq4_xs_scales(), _nibbles(_span(8, 128))),
}
assert all(BY_NAME[name].type_size == layout.block_bytes for name, layout in _LAYOUTS.items())
