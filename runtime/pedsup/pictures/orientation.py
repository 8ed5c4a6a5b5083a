"""How a photo is to be turned: the one thing that is read of its metadata, and the turning itself.

EXIF is a TIFF file inside the picture; tag 0x0112 of its first directory is the orientation. What
cannot be read counts as upright, as in browsers: the metadata is not kept, so it breaks nothing.
Slices with a step turn pixels: pure Python, and still a photo of 12 megapixels in about a second.
"""

from __future__ import annotations

import struct
from typing import Final

from pedsup.pictures.picture import TURNED, UPRIGHT

ORIENTATION: Final = 0x0112
SHORT: Final = 3
MAX_ENTRIES: Final = 512
_ENTRY: Final = 12
"""Bytes: tag, type, count, value."""
CHANNELS: Final = 3


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


def turned_upright(rgb: bytes, width: int, height: int, orientation: int) -> tuple[bytes, int, int]:
    """Apply EXIF's orientation.

    Args:
        rgb: `height` rows of `width` pixels of three bytes.
        orientation: 1 to 8, as in `Picture.orientation`.

    Returns:
        The pixels as a person sees them, and their width and height.
    """
    if orientation == UPRIGHT:
        return rgb, width, height
    if orientation not in TURNED:
        return _mirrored(rgb, width, height, orientation), width, height
    return _transposed(rgb, width, height, orientation), height, width


def _mirrored(rgb: bytes, width: int, height: int, orientation: int) -> bytes:
    """2: left and right change places, 4: above and below, 3: both."""
    row = CHANNELS * width
    out = bytearray(len(rgb))
    for y in range(height):
        source = rgb[y * row : (y + 1) * row]
        to = y if orientation == 2 else height - 1 - y
        if orientation == 4:
            out[to * row : (to + 1) * row] = source
            continue
        for channel in range(CHANNELS):
            out[to * row + channel : (to + 1) * row : CHANNELS] = source[channel::CHANNELS][::-1]
    return bytes(out)


def _transposed(rgb: bytes, width: int, height: int, orientation: int) -> bytes:
    """A row becomes a column: the first one on the left (5, 8) or on the right (6, 7), and read
    from above (5, 6) or from below (7, 8)."""
    row, column = CHANNELS * width, CHANNELS * height
    out = bytearray(len(rgb))
    for y in range(height):
        source = rgb[y * row : (y + 1) * row]
        to = CHANNELS * (y if orientation in (5, 8) else height - 1 - y)
        for channel in range(CHANNELS):
            line = source[channel::CHANNELS]
            out[to + channel :: column] = line if orientation in (5, 6) else line[::-1]
    return bytes(out)
