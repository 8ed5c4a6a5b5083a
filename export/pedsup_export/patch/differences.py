"""The differences of two versions of a tensor's blocks, as `pedsup.patch.arithmetic` takes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pedsup.patch.layouts import Field, Layout, width
from pedsup_export.gguf.blocks import Bytes, numbers


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
