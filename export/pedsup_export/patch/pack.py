"""Pack differences for `pedsup.patch.streams`, the smaller of its two ways."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pedsup.patch.streams import DENSE, EMPTY, MAX_VALUES, RUNS, SPARSE

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
