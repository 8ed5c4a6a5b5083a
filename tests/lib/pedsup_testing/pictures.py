"""Pictures made by Pillow, and by hand where Pillow makes none."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest

Image = pytest.importorskip("PIL.Image")
PLACE = b"12 deg 2' 44.5\" S Lima"
"""Stands for everything that must not leave a photo."""


def pattern(width: int = 96, height: int = 64, mode: str = "RGB") -> Any:
    """A picture without symmetry: colours from left to right, brighter from top to bottom."""
    gradient = Image.linear_gradient("L").resize((width, height))
    side = gradient.transpose(Image.Transpose.ROTATE_90).resize((width, height))
    return Image.merge("RGB", (side, gradient, Image.new("L", (width, height), 40))).convert(mode)


def saved(image: Any, kind: str, **options: Any) -> bytes:
    """The bytes of a file of a kind that Pillow knows."""
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def opened(data: bytes) -> Any:
    """What Pillow makes of a file, as RGB."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image.convert("RGB")


def exif(orientation: int = 1) -> Any:
    """Metadata as a phone writes it: orientation, maker, place."""
    found = Image.Exif()
    found[0x0112] = orientation
    found[0x010F] = PLACE.decode()
    found.get_ifd(0x8825)[2] = (12.0, 2.0, 44.5)
    return found


def private_jpeg(orientation: int = 1, **options: Any) -> bytes:
    """A JPEG with the place in EXIF, XMP, a comment, a colour profile, and after its end."""
    data = saved(
        pattern(), "JPEG", exif=exif(orientation), xmp=b"<x>" + PLACE + b"</x>", comment=PLACE,
        icc_profile=PLACE * 4, **options,
    )  # fmt: skip
    return data + PLACE


def private_png(orientation: int = 1) -> bytes:
    """A PNG with the place in every chunk that takes text."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Comment", PLACE.decode())
    info.add_itxt("XML:com.adobe.xmp", PLACE.decode())
    data = saved(pattern(), "PNG", exif=exif(orientation), pnginfo=info, icc_profile=PLACE * 4)
    return data + PLACE


def chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk of a PNG."""
    sum_ = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", sum_)


def png(
    header: tuple[int, int, int, int, int], rows: bytes, *others: bytes, packed: bytes | None = None
) -> bytes:
    """A PNG by hand.

    Args:
        header: width, height, depth, colour type, interlaced.
        rows: filtered rows, to be packed.
        others: chunks before the pixels.
        packed: the packed rows, where they are to be wrong.
    """
    width, height, depth, colour, interlaced = header
    first = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    pixels = chunk(b"IDAT", zlib.compress(rows) if packed is None else packed)
    return b"\x89PNG\r\n\x1a\n" + first + b"".join(others) + pixels + chunk(b"IEND", b"")


def undecodable_jpeg() -> bytes:
    """A JPEG whose segments are sound and whose entropy-coded data are not."""
    data = saved(pattern(), "JPEG")
    begin = data.index(b"\xff\xda") + 14
    return data[:begin] + b"\xff\0" * 400 + b"\xff\xd9"
