"""Add differences to the numbers of many blocks at once, in pure Python.

A phone has no numpy. Python's own integers do the work: a column of bytes becomes one integer
with a lane for each number, so that one addition adds thousands of differences (SIMD within a
register, with a very long register). Measured: docs/patch.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from pedsup.patch.layouts import Field, Layout, width


def changed(old: bytes, layout: Layout, streams: Sequence[bytes], *, back: bool) -> bytes:
    """The new bytes of whole blocks.

    Args:
        old: the old ones.
        streams: the differences, as `Layout.streams` has them: for each field the numbers of all
            blocks, column by column, one byte each. Empty: nothing changed.
        back: take the differences away instead, which gives the old bytes of the new ones.
    """
    new = bytearray(old)
    *planes, scales, codes = streams
    if any(planes):
        _change_floats(new, layout, planes, back=back)
    for fields, difference in ((layout.scales, scales), (layout.codes, codes)):
        if difference:
            _change_fields(new, fields, difference, layout.block_bytes, back=back)
    return bytes(new)


def _change_fields(
    new: bytearray, fields: Sequence[Field], difference: bytes, size: int, *, back: bool
) -> None:
    """Each group of columns is read once and written once, whatever fields share it."""
    n_blocks = len(new) // size
    groups = dict.fromkeys(part.columns for field in fields for part in field)
    words = {columns: _gather(new, columns, size) for columns in groups}
    results = dict.fromkeys(groups, 0)
    at = 0
    for field in fields:
        bits, n = width(field), n_blocks * len(field[0].columns)
        by = int.from_bytes(difference[at : at + n], "little")
        at += n
        value = 0
        for part in field:
            own = words[part.columns] >> part.shift & _lanes(n, (1 << part.bits) - 1)
            value |= own << part.at
        value = _add(value, by, n, bits, back=back)
        for part in field:
            own = value >> part.at & _lanes(n, (1 << part.bits) - 1)
            results[part.columns] |= own << part.shift
    for columns, word in results.items():
        _scatter(new, columns, size, word)


def _add(value: int, by: int, n: int, bits: int, *, back: bool) -> int:
    """Numbers of `bits` bits, one in each of `n` bytes, modulo 2 to the `bits`."""
    mask = _lanes(n, (1 << bits) - 1)
    if bits == 8:
        return _add_lanes(value, _negative(by, n, 1) if back else by, n, 1)
    if back:
        by = (_lanes(n, 1 << bits) - by) & mask
    return (value + by) & mask


def _change_floats(new: bytearray, layout: Layout, planes: Sequence[bytes], *, back: bool) -> None:
    size, n_bytes = layout.block_bytes, len(planes)
    n = len(new) // size
    for number, columns in enumerate(layout.floats):
        folded, value = bytearray(n_bytes * n), bytearray(n_bytes * n)
        for byte, (column, plane) in enumerate(zip(columns, planes, strict=True)):
            if plane:
                folded[byte::n_bytes] = plane[number * n : (number + 1) * n]
            value[byte::n_bytes] = new[column::size]
        by = _unfolded(int.from_bytes(folded, "little"), n, n_bytes)
        if back:
            by = _negative(by, n, n_bytes)
        added = _add_lanes(int.from_bytes(value, "little"), by, n, n_bytes)
        result = added.to_bytes(n_bytes * n, "little")
        for byte, column in enumerate(columns):
            new[column::size] = result[byte::n_bytes]


def _unfolded(folded: int, n: int, n_bytes: int) -> int:
    """Differences of both signs from 0, -1, 1, -2, ... as 0, 1, 2, 3, ...: small stays small."""
    top = 1 << (8 * n_bytes - 1)
    negative = (folded & _lanes(n, 1, n_bytes)) * (2 * top - 1)
    return (folded >> 1 & _lanes(n, top - 1, n_bytes)) ^ negative


def _negative(by: int, n: int, n_bytes: int) -> int:
    full = _lanes(n, (1 << 8 * n_bytes) - 1, n_bytes)
    return _add_lanes(by ^ full, _lanes(n, 1, n_bytes), n, n_bytes)


def _add_lanes(a: int, b: int, n: int, n_bytes: int) -> int:
    """Sums in lanes of whole bytes; what a lane's top bit carries stays out of the next lane."""
    top = 1 << (8 * n_bytes - 1)
    low = _lanes(n, top - 1, n_bytes)
    return ((a & low) + (b & low)) ^ ((a ^ b) & _lanes(n, top, n_bytes))


@lru_cache(maxsize=64)
def _lanes(n: int, value: int, n_bytes: int = 1) -> int:
    """`value` in each of `n` lanes."""
    return int.from_bytes(value.to_bytes(n_bytes, "little") * n, "little")


def _gather(blocks: bytearray, columns: tuple[int, ...], size: int) -> int:
    return int.from_bytes(b"".join([blocks[column::size] for column in columns]), "little")


def _scatter(blocks: bytearray, columns: tuple[int, ...], size: int, word: int) -> None:
    n_blocks = len(blocks) // size
    data = word.to_bytes(n_blocks * len(columns), "little")
    for number, column in enumerate(columns):
        blocks[column::size] = data[number * n_blocks : (number + 1) * n_blocks]
