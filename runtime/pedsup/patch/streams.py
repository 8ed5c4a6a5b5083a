"""How the differences of a piece are packed: by deflate, as they are or as what lies between.

Most differences are zero. A sparse stream has one byte for each that is not: how many zeros come
before it and its value together, by a table at the head of the stream. Such bytes are about
equally likely, so Huffman codes alone come within a few percent of their entropy, and what is
left to do in Python is one table look-up for each changed number.

    sparse stream   u8 number of values | (u8 value, u8 count) for each | a byte for each step
    byte            the n-th (zeros, value) of the table, in which a value stands `count` times,
                    with 0, 1, ... zeros before it; or one of RUNS, zeros alone
"""

from __future__ import annotations

import zlib
from typing import Final

from pedsup.messages import message, reason_of

EMPTY: Final = 0
"""No difference at all."""
DENSE: Final = 1
"""Deflate of the differences."""
SPARSE: Final = 2
"""Deflate of a sparse stream."""
METHODS: Final = (EMPTY, DENSE, SPARSE)
RUNS: Final = (960, 240, 60, 16, 4, 1)
"""Zeros without a value: the last bytes of the table."""
MAX_VALUES: Final = 128
MAX_HEAD: Final = 1 + 2 * MAX_VALUES
_SLICE: Final = 1024
"""Bytes expanded at a time: at most a MB, whatever they say."""


def unpacked(method: int, packed: bytes, length: int) -> bytes:
    """The `length` differences of a stream; empty for `EMPTY`.

    Raises:
        ValueError: the stream is damaged, or holds more or less than that.
    """
    if method == EMPTY:
        if packed:
            raise ValueError("an empty stream with bytes in it")
        return b""
    if method == DENSE:
        data = inflated(packed, length)
        if len(data) != length:
            raise ValueError(
                message("{count} differences, not {wanted}", count=len(data), wanted=length)
            )
        return data
    if method == SPARSE:
        return _expanded(inflated(packed, MAX_HEAD + length), length)
    raise ValueError(message("method {number}", number=method))


def inflated(packed: bytes, limit: int) -> bytes:
    """What one raw deflate stream holds, at most `limit` bytes.

    Raises:
        ValueError: it is damaged, holds more, or something follows it.
    """
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = stream.decompress(packed, limit + 1)
    except zlib.error as error:
        raise ValueError(message("not deflate: {reason}", reason=reason_of(error))) from error
    if len(data) > limit:
        raise ValueError(message("more than {count} bytes", count=limit))
    if not stream.eof or stream.unused_data or stream.unconsumed_tail:
        raise ValueError("deflate that does not end where it must")
    return data


def _expanded(data: bytes, length: int) -> bytes:
    """The differences that a sparse stream means; zeros follow the last one."""
    table, begin = _table(data)
    out = bytearray()
    for at in range(begin, len(data), _SLICE):
        try:
            out += b"".join(map(table.__getitem__, data[at : at + _SLICE]))
        except IndexError:
            raise ValueError("a byte that is not in the table") from None
        if len(out) > length:
            raise ValueError(message("more than {count} differences", count=length))
    return bytes(out) + bytes(length - len(out))


def _table(data: bytes) -> tuple[list[bytes], int]:
    """What each byte stands for, and where they begin."""
    n = data[0] if data else 0
    begin = 1 + 2 * n
    if not 1 <= n <= MAX_VALUES or len(data) < begin:
        raise ValueError(message("a table of {count} values", count=n))
    table: list[bytes] = []
    for at in range(1, begin, 2):
        value, count = data[at], data[at + 1]
        table += [bytes(zeros) + bytes((value,)) for zeros in range(count)]
        if not value or not count or len(table) > 256 - len(RUNS):
            raise ValueError(
                message(
                    "the value {value} stands {count} times in the table", value=value, count=count
                )
            )
    return table + [bytes(run) for run in RUNS], begin
