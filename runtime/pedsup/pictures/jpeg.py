"""A JPEG file's segments: what the decoder needs is kept, everything else is left out.

llama.cpp decodes with stb_image, which shows whatever is in memory where a file is cut off or a
colour has no scan, and takes as long as it is told to by the number of scans. So the structure is
checked here, and the file written anew without EXIF, XMP, comments, colour profiles, previews and
whatever follows its end. The entropy-coded data are copied as they are.

ITU-T T.81 has the segments; "JFIF" and "Adobe" mark how the colours are meant.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from pedsup.messages import message
from pedsup.pictures.faults import damaged, require_decodable, require_size, unsuitable
from pedsup.pictures.limits import MAX_PARTS, MAX_SCANS
from pedsup.pictures.orientation import orientation_of
from pedsup.pictures.picture import UPRIGHT

SOI: Final = b"\xff\xd8"
EOI: Final = b"\xff\xd9"
_SOF: Final = (0xC0, 0xC1, 0xC2)
_PROGRESSIVE: Final = 0xC2
_OTHER_FRAMES: Final = (0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_DHT, _DAC, _SOS, _DQT, _DRI, _EOI = 0xC4, 0xCC, 0xDA, 0xDB, 0xDD, 0xD9
_APP0, _APP1, _APP14 = 0xE0, 0xE1, 0xEE
_LEFT_OUT: Final = (*range(0xE0, 0xF0), 0xFE)
"""Application segments and comments."""
_STANDALONE: Final = (0x01, *range(0xD0, 0xD8))
_MARKER: Final = re.compile(rb"\xff+([^\x00\xff])")
_AFTER_SCAN: Final = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
_JFIF: Final = b"\xff\xe0\x00\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"
"""Version 1.1, square pixels, no preview."""
_ADOBE: Final = b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0"
"""Version 100, without the last byte: which colours they are."""
_CUT: Final = message("the JPEG is cut off")
_BROKEN: Final = message("the JPEG is damaged")
_RESAVE: Final = message("open it in the gallery and save it as JPEG again, or take a screenshot")


@dataclass(frozen=True)
class Bare:
    """A picture's file without metadata."""

    data: bytes
    width: int
    height: int
    orientation: int


@dataclass
class _Frame:
    """What the frame header says, and which scans have come."""

    width: int
    height: int
    progressive: bool
    sampling: dict[int, tuple[int, int]]
    """Horizontal and vertical, by the component's id."""
    begun: set[int] = field(default_factory=set)
    scans: int = 0


@dataclass
class _Found:
    """What has been seen of a file."""

    kept: list[bytes] = field(default_factory=list)
    frame: _Frame | None = None
    jfif: bool = False
    adobe: bytes = b""
    orientation: int = UPRIGHT
    exif: bool = False


def bare_jpeg(data: bytes) -> Bare:
    """Check a JPEG file and leave its metadata out.

    Raises:
        BadFileError: it is damaged or cut off.
        UnsupportedError: too large, or of a kind that the decoder does not take.
    """
    found = _Found()
    for marker, begin, end in _segments(data):
        if marker == _SOS:
            frame = found.frame
            if frame is None:
                raise damaged(_BROKEN)
            _check_scan(frame, data[begin:end])
            after = _AFTER_SCAN.search(data, end)
            if after is None:
                raise damaged(_CUT)
            found.kept.append(_segment(marker, data[begin:end]) + data[end : after.start()])
        else:
            _take(found, marker, data[begin:end])
    return _written(found)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, begin and end of each segment's content up to the end of the picture."""
    at = len(SOI)
    for _ in range(MAX_PARTS):
        # Some programs fill up with bytes between segments; after a scan come its data.
        match = _MARKER.search(data, at)
        if match is None:
            raise damaged(_CUT)
        marker, at = match[1][0], match.end()
        if marker == _EOI:
            return
        if marker in _STANDALONE:
            continue
        if at + 2 > len(data):
            raise damaged(_CUT)
        (length,) = struct.unpack_from(">H", data, at)
        if length < 2:
            raise damaged(_BROKEN)
        if at + length > len(data):
            raise damaged(_CUT)
        yield marker, at + 2, at + length
        at += length
    raise damaged(_BROKEN)


def _take(found: _Found, marker: int, content: bytes) -> None:
    if marker in _LEFT_OUT:
        _note(found, marker, content)
        return
    if marker in (*_OTHER_FRAMES, _DAC):
        raise unsuitable(
            message("the JPEG is of a rare kind (lossless, hierarchical or arithmetic coding)"),
            _RESAVE,
        )
    if marker in _SOF and found.frame is None:
        found.frame = _frame(marker, content)
    elif marker == _DQT:
        _check_quantization(content)
    elif marker == _DHT:
        _check_huffman(content)
    elif marker != _DRI or len(content) != 2:
        raise damaged(_BROKEN)
    found.kept.append(_segment(marker, content))


def _note(found: _Found, marker: int, content: bytes) -> None:
    """What a segment that is left out says about the colours and the orientation."""
    if marker == _APP0 and content.startswith(b"JFIF\0"):
        found.jfif = True
    elif marker == _APP14 and content.startswith(b"Adobe") and len(content) >= 12:
        found.adobe = content[11:12]
    elif marker == _APP1 and content.startswith(b"Exif\0\0") and not found.exif:
        found.exif = True
        found.orientation = orientation_of(content[6:])


def _frame(marker: int, content: bytes) -> _Frame:
    if len(content) < 6 or len(content) != 6 + 3 * content[5]:
        raise damaged(_BROKEN)
    bits, height, width, n = struct.unpack_from(">BHHB", content)
    if bits != 8:
        raise unsuitable(message("the JPEG has {n} bits per colour; 8 are usual", n=bits), _RESAVE)
    if height == 0 or width == 0:
        raise damaged(message("the JPEG does not say how large it is"))
    if n == 4:
        raise unsuitable(
            message("the JPEG is made for printing (CMYK): its colours would be wrong"), _RESAVE
        )
    if n not in (1, 3):
        raise damaged(_BROKEN)
    require_size(width, height)
    sampling = {}
    for i in range(n):
        ident, factors, table = content[6 + 3 * i : 9 + 3 * i]
        if not (1 <= factors >> 4 <= 4 and 1 <= factors & 15 <= 4 and table <= 3):
            raise damaged(_BROKEN)
        sampling[ident] = (factors >> 4, factors & 15)
    widest, tallest = (max(each[i] for each in sampling.values()) for i in (0, 1))
    if len(sampling) != n or any(widest % h or tallest % v for h, v in sampling.values()):
        raise damaged(_BROKEN)
    frame = _Frame(width, height, marker == _PROGRESSIVE, sampling)
    require_decodable(_decoded(frame, widest, tallest))
    return frame


def _decoded(frame: _Frame, widest: int, tallest: int) -> int:
    """Bytes that stb_image takes: planes, coefficients where progressive, and the pixels."""
    across = -(-frame.width // (8 * widest)) * 8
    down = -(-frame.height // (8 * tallest)) * 8
    planes = sum(across * h * down * v for h, v in frame.sampling.values())
    return planes * (3 if frame.progressive else 1) + 3 * frame.width * frame.height


def _check_quantization(content: bytes) -> None:
    at = 0
    while at < len(content):
        precision, table = content[at] >> 4, content[at] & 15
        if precision > 1 or table > 3:
            raise damaged(_BROKEN)
        at += 129 if precision else 65
    if at != len(content):
        raise damaged(_BROKEN)


def _check_huffman(content: bytes) -> None:
    at = 0
    while at < len(content):
        counts = content[at + 1 : at + 17]
        if content[at] >> 4 > 1 or content[at] & 15 > 3 or sum(counts) > 256:
            raise damaged(_BROKEN)
        at += 17 + sum(counts)
    if at != len(content):
        raise damaged(_BROKEN)


def _check_scan(frame: _Frame, content: bytes) -> None:
    n = content[0] if content else 0
    if not 1 <= n <= len(frame.sampling) or len(content) != 4 + 2 * n:
        raise damaged(_BROKEN)
    idents = set(content[1 : 1 + 2 * n : 2])
    tables = content[2 : 2 + 2 * n : 2]
    first, last, approximation = content[1 + 2 * n :]
    if len(idents) != n or not idents <= set(frame.sampling) or any(t & 0xCC for t in tables):
        raise damaged(_BROKEN)
    if frame.progressive:
        sound = first <= last <= 63 and (first == 0) == (last == 0) and (first == 0 or n == 1)
        sound = sound and approximation >> 4 <= 13 and approximation & 15 <= 13
    else:
        sound = first == 0 and approximation == 0
    begins = first == 0 and approximation >> 4 == 0
    if not sound or (not begins and not idents <= frame.begun):
        raise damaged(_BROKEN)
    if begins:
        frame.begun |= idents
    frame.scans += 1
    if frame.scans > MAX_SCANS:
        raise unsuitable(
            message("the JPEG has more than {n} scans; about ten are usual", n=MAX_SCANS), _RESAVE
        )


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _written(found: _Found) -> Bare:
    frame = found.frame
    if frame is None or frame.begun != set(frame.sampling):
        raise damaged(_CUT)
    head = [SOI]
    if found.jfif:
        head.append(_JFIF)
    if found.adobe:
        head.append(_ADOBE + found.adobe)
    data = b"".join([*head, *found.kept, EOI])
    return Bare(data, frame.width, frame.height, found.orientation)
