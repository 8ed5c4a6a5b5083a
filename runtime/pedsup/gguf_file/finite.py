"""Whether the weights of a small file are numbers: one NaN in an adapter makes all logits NaN."""

from __future__ import annotations

from typing import Final, NamedTuple

from pedsup.errors import BadFileError
from pedsup.gguf_file.cursor import AGAIN
from pedsup.gguf_file.header import GGUFHeader, open_regular
from pedsup.messages import message

CHUNK: Final = 1 << 20
"""Of a tensor read at once, in blocks of its type."""


class _Exponents(NamedTuple):
    """Where in a block of so many bytes the byte with most of the exponent is, and what it must not
    be. Without the sign; in F32 and BF16 it also stands for finite numbers from 1.7e38.
    """

    size: int
    at: int
    bad: bytes


_F16: Final = bytes((*range(0x7C, 0x80), *range(0xFC, 0x100)))
_LARGE: Final = b"\x7f\xff"
_TYPES: Final = {
    "F32": _Exponents(4, 3, _LARGE),
    "BF16": _Exponents(2, 1, _LARGE),
    "F16": _Exponents(2, 1, _F16),
    "Q8_0": _Exponents(34, 1, _F16),  # the block's scale
}


def require_finite(header: GGUFHeader) -> None:
    """Read all weights of a file and refuse NaN, Inf and what overflows with them.

    Numbers of the types F32, F16, BF16 and Q8_0 are looked at; 70 MB in F16 take 0.1 s.

    Raises:
        BadFileError: there is one, or the file is shorter than its header says.
    """
    with open_regular(header.path, message("a GGUF adapter file")) as file:
        for tensor in header.tensors.values():
            how = _TYPES.get(tensor.type.name)
            if how is None:
                continue
            file.seek(header.data_offset + tensor.offset)
            left = tensor.n_bytes
            while left:
                data = file.read(min(left, CHUNK * how.size))
                tops = data[how.at :: how.size]
                if not data or len(tops.translate(None, how.bad)) != len(tops):
                    raise BadFileError(
                        message("the weights of '{name}' are not all numbers", name=tensor.name),
                        where=header.path,
                        wanted=message("finite numbers"),
                        remedy=AGAIN,
                    )
                left -= len(data)
