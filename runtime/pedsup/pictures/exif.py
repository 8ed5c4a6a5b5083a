"""The one thing that is read of a photo's metadata: how it is to be turned.

EXIF is a TIFF file inside the picture; tag 0x0112 of its first directory is the orientation. What
cannot be read counts as upright, as in browsers: the metadata is not kept, so it breaks nothing.
"""

from __future__ import annotations

import struct
from typing import Final

from pedsup.pictures.picture import UPRIGHT

ORIENTATION: Final = 0x0112
SHORT: Final = 3
MAX_ENTRIES: Final = 512
_ENTRY: Final = 12
"""Bytes: tag, type, count, value."""


def orientation_of(tiff: bytes) -> int:
    """EXIF's orientation, 1 to 8; 1 where there is none or it makes no sense."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return UPRIGHT
    (at,) = struct.unpack_from(order + "I", tiff, 4)
    if at + 2 > len(tiff):
        return UPRIGHT
    (n,) = struct.unpack_from(order + "H", tiff, at)
    entries = tiff[at + 2 : at + 2 + _ENTRY * min(n, MAX_ENTRIES)]
    for begin in range(0, len(entries) - _ENTRY + 1, _ENTRY):
        tag, kind, count, value = struct.unpack_from(order + "HHIH", entries, begin)
        if tag == ORIENTATION:
            return value if kind == SHORT and count == 1 and 1 <= value <= 8 else UPRIGHT
    return UPRIGHT
