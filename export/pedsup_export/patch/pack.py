"""The differences of headers and of tensors' blocks, packed for `pedsup.patch.streams`."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pedsup.patch.layouts import Field, Layout, width
from pedsup.patch.streams import DENSE, EMPTY, MAX_VALUES, RUNS, SPARSE
from pedsup_export.gguf.blocks import Bytes, numbers

BLOCK: Final = 64
"""Bytes that must be the same for a copy to be found."""


def copies(old: bytes, new: bytes) -> tuple[list[tuple[int, int]], bytes]:
    """(byte of `old`, length), or (-1, length) for the next bytes of what is returned beside.

    Gemma 4's header has 16 MB of vocabulary. A line before it that grows by a byte moves all of
    it, so copies are found wherever they are (as rsync does, but with the blocks themselves).
    """
    where = {old[at : at + BLOCK]: at for at in range(0, len(old) - BLOCK + 1, BLOCK)}
    found: list[tuple[int, int]] = []
    literal = bytearray()
    at = source = 0
    while at < len(new):
        n = _common(old, new, source, at)
        if n >= BLOCK or (n and at + n == len(new)):
            found.append((source, n))
            at, source = at + n, source + n
            continue
        begin = at
        while at < len(new) and (here := where.get(new[at : at + BLOCK])) is None:
            at += 1
        if at < len(new):
            assert here is not None
            # The copy may begin before the block that was found.
            while at > begin and here and new[at - 1] == old[here - 1]:
                at, here = at - 1, here - 1
            source = here
        literal += new[begin:at]
        if at > begin:
            found.append((-1, at - begin))
    return found, bytes(literal)


def _common(old: bytes, new: bytes, source: int, at: int) -> int:
    """Length of what is the same from these two places on."""
    n, step = 0, 1 << 20
    limit = min(len(old) - source, len(new) - at)
    while n < limit:
        size = min(step, limit - n)
        if old[source + n : source + n + size] == new[at + n : at + n + size]:
            n += size
        elif step == 1:
            break
        else:
            step = max(1, size // 2)
    return n


def differences(old: bytes, new: bytes, layout: Layout) -> list[bytes]:
    """The streams of `Layout.streams`; empty where nothing changed.

    Args:
        old: whole blocks.
        new: as many.
    """
    before, after = (
        np.frombuffer(data, np.uint8).reshape(-1, layout.block_bytes) for data in (old, new)
    )
    parts = (
        *_floats(before, after, layout.floats),
        _fields(before, after, layout.scales),
        _fields(before, after, layout.codes),
    )
    return [part.tobytes() if part.any() else b"" for part in parts]


def _fields(before: Bytes, after: Bytes, fields: Sequence[Field]) -> Bytes:
    found = []
    for field in fields:
        step = numbers(after, (field,)) - numbers(before, (field,))
        found.append((step & np.uint8((1 << width(field)) - 1)).T.ravel())
    return np.concatenate(found) if found else np.empty(0, np.uint8)


def _floats(before: Bytes, after: Bytes, floats: Sequence[Sequence[int]]) -> Bytes:
    """Folded as 0, -1, 1, -2, ... are 0, 1, 2, 3, ...; shape (bytes of a number, all numbers)."""
    if not floats:
        return np.empty((0, 0), np.uint8)
    n_bytes = len(floats[0])
    kind = np.dtype(f"<u{n_bytes}")
    one, top = kind.type(1), kind.type(8 * n_bytes - 1)
    planes = []
    for columns in floats:
        old, new = (
            np.ascontiguousarray(blocks[:, list(columns)]).view(kind)[:, 0]
            for blocks in (before, after)
        )
        step = new - old
        folded = (step << one) ^ (kind.type(0) - (step >> top))
        planes.append(folded.view(np.uint8).reshape(-1, n_bytes).T)
    return np.concatenate(planes, axis=1)


_ROOM: Final = 256 - len(RUNS)
_SPARSE: Final = 0.2
_DENSE: Final = 0.7
"""Shares of changed numbers between which both ways are tried."""
_STREAM: Final = struct.Struct("<BI")


def packed_piece(streams: Sequence[bytes]) -> bytes:
    """A piece of a tensor: for each stream u8 method, u32 length and the packed bytes."""
    out = []
    for stream in streams:
        method, data = packed(stream)
        out += [_STREAM.pack(method, len(data)), data]
    return b"".join(out)


def packed(stream: bytes) -> tuple[int, bytes]:
    """The method and the bytes of one stream."""
    if not stream:
        return EMPTY, b""
    differences = np.frombuffer(stream, np.uint8)
    changed = np.count_nonzero(differences) / len(differences)
    sparse = sparse_stream(differences) if changed < _DENSE else None
    ways = [] if sparse is None else [(SPARSE, deflated(sparse))]
    if sparse is None or changed > _SPARSE:
        ways.append((DENSE, deflated(stream)))
    return min(ways, key=lambda way: len(way[1]))


def deflated(data: bytes, strategy: int = zlib.Z_HUFFMAN_ONLY) -> bytes:
    """Raw deflate. Nothing repeats in differences, and looking for it takes most of the time."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, strategy)
    return stream.compress(data) + stream.flush()


def sparse_stream(differences: NDArray[np.uint8]) -> bytes | None:
    """What is not zero, as `pedsup.patch.streams` describes; None with more than 128 values."""
    at = np.flatnonzero(differences)
    values, frequency = np.unique(differences[at], return_counts=True)
    if not 1 <= len(values) <= MAX_VALUES:
        return None
    counts = _counts(frequency, len(differences))
    head = bytes([len(values)]) + np.stack([values, counts], 1).astype(np.uint8).tobytes()
    first = np.cumsum(counts) - counts
    which = np.searchsorted(values, differences[at])
    zeros, known = np.diff(at, prepend=-1) - 1, counts[which]
    # What is above the table's zeros goes ahead as runs; up to a run less is left where it fits.
    runs = np.asarray(RUNS)
    step = runs[np.argmax(known[:, None] >= runs, axis=1)]
    ahead = -(-np.maximum(0, zeros - known + 1) // step) * step
    repeats = np.ones((len(at), len(RUNS) + 1), np.int64)
    rest = ahead
    for n, run in enumerate(RUNS):
        repeats[:, n], rest = rest // run, rest % run
    bytes_ = np.empty_like(repeats)
    bytes_[:, :-1] = counts.sum() + np.arange(len(RUNS))
    bytes_[:, -1] = first[which] + zeros - ahead
    return head + np.repeat(bytes_.ravel(), repeats.ravel()).astype(np.uint8).tobytes()


def _counts(frequency: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """How often each value stands in the table: as far as (zeros, value) is frequent enough.

    Zeros before a value are taken as geometrically distributed: f (1 - p)^zeros is to be above a
    threshold, which is found by bisection.
    """
    step = -np.log(max(1e-9, 1 - frequency.sum() / n))
    low, high = -60.0, 60.0
    for _ in range(50):
        middle = (low + high) / 2
        if _above(frequency, step, middle).sum() > _ROOM:
            low = middle
        else:
            high = middle
    return _above(frequency, step, high)


def _above(frequency: NDArray[np.int64], step: float, threshold: float) -> NDArray[np.int64]:
    found = np.floor((np.log(frequency) - threshold) / step)
    return np.clip(found, 1, 250 - len(frequency)).astype(np.int64)
