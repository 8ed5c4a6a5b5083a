"""A PNG file's chunks: what the decoder needs is kept, everything else is left out.

llama.cpp decodes with stb_image, which unpacks however much the compressed data hold, checks no
sums and drops the transparency. So the pixel data are unpacked here once, a row at a time, to
prove that they are as long as the size says and whole; and what is transparent is refused, since
the model would see the colours beneath it, most often black on black. A palette's transparent
colours are laid on white.

The W3C's PNG specification (third edition) has the chunks, the passes and the filters.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pedsup.errors import UnsupportedError
from pedsup.messages import message
from pedsup.pictures.faults import (
    damaged,
    require_decodable,
    require_size,
    unsuitable,
)
from pedsup.pictures.jpeg import Bare
from pedsup.pictures.limits import MAX_PARTS
from pedsup.pictures.orientation import orientation_of
from pedsup.pictures.picture import UPRIGHT

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PALETTE: Final = 3
_ALPHA: Final = (4, 6)
_PASSES: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4),
                  (1, 0, 2, 2), (0, 1, 1, 2))  # fmt: skip
"""Of Adam7: first column and row, steps to the next."""
_PIECE: Final = 1 << 18
"""Bytes unpacked at a time."""
_CUT: Final = message("the PNG is cut off")
_BROKEN: Final = message("the PNG is damaged")
_AS_JPEG: Final = message("save it as JPEG, or take a screenshot of it")
_LARGEST: Final = (1 << 31) - 1


@dataclass(frozen=True)
class _Header:
    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool

    @property
    def pixel_bits(self) -> int:
        return self.depth * _CHANNELS[self.colour]

    def passes(self) -> Iterator[tuple[int, int]]:
        """Width and height of each part that is filtered by itself."""
        if not self.interlaced:
            yield self.width, self.height
            return
        for x, y, dx, dy in _PASSES:
            width, height = (self.width - x + dx - 1) // dx, (self.height - y + dy - 1) // dy
            if width > 0 and height > 0:
                yield width, height


@dataclass
class _Found:
    header: _Header | None = None
    palette: bytes = b""
    transparency: bytes = b""
    orientation: int = UPRIGHT


def bare_png(data: bytes) -> Bare:
    """Check a PNG file and leave its metadata out.

    Raises:
        BadFileError: it is damaged or cut off.
        UnsupportedError: too large, animated, transparent, or of a kind that is not decoded.
    """
    found, packed = _Found(), []
    for kind, content in _chunks(data):
        if kind == b"IDAT":
            packed.append(content)
        elif kind != b"IEND":
            _take(found, kind, content, before_pixels=not packed)
    header = found.header
    if header is None or not packed:
        raise damaged(_BROKEN)
    if found.transparency and header.colour != _PALETTE:
        raise _transparent()
    pixels = b"".join(packed)
    pixels = pixels[: _checked(pixels, header)]
    chunks = [_chunk(b"IHDR", _packed(header))]
    if header.colour == _PALETTE:
        chunks.append(_chunk(b"PLTE", _opaque_palette(found, header)))
    chunks += [_chunk(b"IDAT", pixels), _chunk(b"IEND", b"")]
    return Bare(SIGNATURE + b"".join(chunks), header.width, header.height, found.orientation)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each chunk up to the end of the picture."""
    at = len(SIGNATURE)
    for _ in range(MAX_PARTS):
        if at + 12 > len(data):
            raise damaged(_CUT)
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if length > _LARGEST or end + 4 > len(data):
            raise damaged(_CUT)
        (wanted,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(memoryview(data)[at + 4 : end]) != wanted:
            raise damaged(_BROKEN)
        yield kind, data[at + 8 : end]
        if kind == b"IEND":
            return
        at = end + 4
    raise damaged(_BROKEN)


def _take(found: _Found, kind: bytes, content: bytes, *, before_pixels: bool) -> None:
    if kind == b"IHDR" and found.header is None:
        found.header = _header(content)
    elif found.header is None:
        if kind == b"CgBI":
            raise unsuitable(message("the PNG is in Apple's own form for apps"), _AS_JPEG)
        raise damaged(_BROKEN)
    elif kind == b"PLTE" and before_pixels and not found.palette:
        found.palette = content
    elif kind == b"tRNS":
        found.transparency = content
    elif kind == b"eXIf":
        found.orientation = orientation_of(content)
    elif kind == b"acTL" and content[:4] != b"\0\0\0\x01":
        raise unsuitable(
            message("the PNG is animated"), message("take a screenshot of the moment that counts")
        )
    elif not kind[0] & 0x20:  # a critical chunk: without it the picture is not what it is
        raise damaged(_BROKEN)


def _header(content: bytes) -> _Header:
    if len(content) != 13:
        raise damaged(_BROKEN)
    width, height, depth, colour, *methods = struct.unpack(">IIBBBBB", content)
    if depth not in _DEPTHS.get(colour, ()) or methods[:2] != [0, 0] or methods[2] > 1:
        raise damaged(_BROKEN)
    if not 0 < width <= _LARGEST or not 0 < height <= _LARGEST:
        raise damaged(message("the PNG does not say how large it is"))
    require_size(width, height)
    header = _Header(width, height, depth, colour, bool(methods[2]))
    # Unpacked, unfiltered and, where interlaced, put together; then brought to 8 bits and RGB.
    sample = width * height * max(1, depth // 8)
    stored = sample * _CHANNELS[colour]
    pixels = stored * (3 if header.interlaced else 2) + 4 * width * height
    require_decodable(pixels)
    return header


def _packed(header: _Header) -> bytes:
    return struct.pack(
        ">IIBBBBB", header.width, header.height, header.depth, header.colour, 0, 0,
        header.interlaced,
    )  # fmt: skip


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(
        ">I", zlib.crc32(kind + content)
    )  # fmt: skip


def _opaque_palette(found: _Found, header: _Header) -> bytes:
    """All colours that a pixel can name, those that are transparent laid on white."""
    palette, alphas = found.palette, found.transparency
    size = len(palette) // 3
    if len(palette) % 3 or not 1 <= size <= 1 << header.depth or len(alphas) > size:
        raise damaged(_BROKEN)
    full = [alphas[i] if i < len(alphas) else 255 for i in range(size)]
    mixed = bytes(
        (palette[3 * i + k] * alpha + 255 * (255 - alpha) + 127) // 255
        for i, alpha in enumerate(full)
        for k in range(3)
    )
    return mixed.ljust(3 << header.depth, b"\0")


def _checked(packed: bytes, header: _Header) -> int:
    """Unpack all rows and check them; returns how many of the bytes are the pixels'."""
    rows = _Rows(packed)
    pixel = max(1, header.pixel_bits // 8)
    alpha = header.depth // 8 if header.colour in _ALPHA else 0
    for width, height in header.passes():
        length = (width * header.pixel_bits + 7) // 8
        for y in range(height):
            row = rows.next(1 + length)
            if row[0] > 4:
                raise damaged(_BROKEN)
            for byte in range(pixel - alpha, pixel):
                if row[1 + byte :: pixel] != _opaque(row[0], y == 0, width):
                    raise _transparent()
    return rows.end()


def _transparent() -> UnsupportedError:
    return unsuitable(
        message("the PNG has transparent parts: the model would see the colours beneath them"),
        _AS_JPEG,
    )


def _opaque(kind: int, first: bool, width: int) -> bytes:
    """How a row's opacity is stored where it and the row above are opaque throughout.

    Each filter stores the difference from what the neighbours predict; above the first row and to
    the left of the first pixel are zeros.
    """
    begin, rest = {
        0: (255, 255),
        1: (255, 0),
        2: (255, 255) if first else (0, 0),
        3: (255, 128) if first else (128, 0),
        4: (255, 0) if first else (0, 0),
    }[kind]
    return bytes([begin]) + bytes([rest]) * (width - 1)


class _Rows:
    """Unpacks a zlib stream a row at a time, never more than a piece ahead."""

    def __init__(self, packed: bytes) -> None:
        self._stream = zlib.decompressobj()
        self._packed = packed
        self._at = 0
        self._unread = b""
        self._rows = bytearray()

    def _unpack(self) -> bool:
        """Unpack a piece; False where there is no more."""
        if self._stream.eof:
            return False
        if not self._unread:
            self._unread = self._packed[self._at : self._at + _PIECE]
            self._at += len(self._unread)
        given = self._unread
        try:
            piece = self._stream.decompress(given, _PIECE)
        except zlib.error:
            raise damaged(_BROKEN) from None
        self._unread = self._stream.unconsumed_tail
        self._rows += piece
        return bool(piece) or self._at < len(self._packed) or self._stream.eof

    def next(self, length: int) -> bytes:
        while len(self._rows) < length:
            if not self._unpack():
                raise damaged(_CUT)
        row = bytes(self._rows[:length])
        del self._rows[:length]
        return row

    def end(self) -> int:
        """Check that nothing is left; returns how many packed bytes there were."""
        while not self._stream.eof and not self._rows:
            if not self._unpack():
                raise damaged(_CUT)
        if self._rows:
            raise damaged(message("the PNG holds more pixels than its size says"))
        return self._at - len(self._unread) - len(self._stream.unused_data)
