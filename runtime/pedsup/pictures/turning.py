"""Pixels turned upright, by the orientation that a camera wrote into its file."""

from __future__ import annotations

from typing import Final

from pedsup.pictures.picture import TURNED

_FLIPPED: Final = {2: (True, False), 3: (True, True), 4: (False, True), 5: (False, False),
                   6: (True, False), 7: (True, True), 8: (False, True)}  # fmt: skip
"""By EXIF orientation: whether columns and rows run backwards, after the sides are exchanged for 5
to 8 (EXIF 2.3, tag 274)."""


def turned(pixels: bytes, size: tuple[int, int], orientation: int) -> tuple[bytes, tuple[int, int]]:
    """RGB pixels, row by row, as a person sees the picture; and their width and height.

    Args:
        size: width and height as stored.
        orientation: EXIF's number, 1 to 8; others leave the picture as it is.
    """
    width, height = size
    if orientation not in _FLIPPED:
        return pixels, size
    backwards, upwards = _FLIPPED[orientation]
    if orientation in TURNED:
        pixels, (width, height) = _exchanged(pixels, width, height), (height, width)
    stride = 3 * width
    rows = [pixels[at : at + stride] for at in range(0, len(pixels), stride)]
    if upwards:
        rows.reverse()
    if backwards:
        rows = [_reversed(row) for row in rows]
    return b"".join(rows), (width, height)


def _exchanged(pixels: bytes, width: int, height: int) -> bytes:
    """Columns as rows."""
    stride, column = 3 * width, bytearray(3 * height)
    out = []
    for x in range(0, stride, 3):
        for colour in range(3):
            column[colour::3] = pixels[x + colour :: stride]
        out.append(bytes(column))
    return b"".join(out)


def _reversed(row: bytes) -> bytes:
    out = bytearray(len(row))
    for colour in range(3):
        out[colour::3] = row[colour::3][::-1]
    return bytes(out)
