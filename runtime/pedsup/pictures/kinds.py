"""What a file is, by its first bytes; and what to do with a picture that is of another kind."""

from __future__ import annotations

import re
from typing import Final

from pedsup.errors import PedsupError, UnsupportedError
from pedsup.messages import Message, message
from pedsup.pictures.faults import damaged, unsuitable
from pedsup.pictures.jpeg import SOI
from pedsup.pictures.png import SIGNATURE

JPEG: Final = "image/jpeg"
PNG: Final = "image/png"
_HEAD: Final = 1024
_CONVERT: Final = message(
    "open it in the gallery and save or share it as JPEG, or take a screenshot of it"
)
_CAMERA: Final = message(
    "save it as JPEG or take a screenshot of it; for new photos set the camera to JPEG (iPhone: "
    "Settings, Camera, Formats, Most Compatible; Android: switch high-efficiency pictures off)"
)
_PAGE: Final = message(
    "take a screenshot of it or save it as JPEG; the page of `pedsup-run MODEL --serve` takes it "
    "as it is"
)
_STILL: Final = message("take a screenshot of the moment that counts")
_PAGES: Final = message("take a screenshot of the page that counts")
_EXPORT: Final = message("export the picture as PNG or JPEG from the program that shows it")
_ISO: Final[dict[bytes, tuple[Message, Message]]] = {
    b"heic": (message("a HEIC photo"), _CAMERA),
    b"avif": (message("an AVIF picture"), _PAGE),
    b"crx ": (message("a raw photo"), _CAMERA),
}
_BRANDS: Final = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
                    b"heic"),
    **dict.fromkeys((b"avif", b"avis"), b"avif"),
    b"crx ": b"crx ",
}  # fmt: skip
_OTHERS: Final[tuple[tuple[re.Pattern[bytes], Message, Message], ...]] = tuple(
    (re.compile(pattern, re.DOTALL), what, remedy)
    for pattern, what, remedy in (
        (rb"RIFF....WEBP", message("a WebP picture"), _PAGE),
        (rb"GIF8[79]a", message("a GIF picture, which may be animated"), _STILL),
        (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", message("a TIFF picture or a raw photo"), _CONVERT),
        (rb"BM.{12}[\x0c\x28\x34\x38\x6c\x7c]\0", message("a BMP picture"), _CONVERT),
        (rb"\xff\x0a|\0\0\0\x0cJXL ", message("a JPEG XL picture"), _CONVERT),
        (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", message("a JPEG 2000 picture"), _CONVERT),
        (rb"%PDF-", message("a PDF document"), _PAGES),
        (rb"PK\x03\x04", message("a document or an archive (ZIP)"), _PAGES),
        (rb".{128}DICM", message("a DICOM file"), _EXPORT),
        (rb"8BPS", message("a Photoshop file"), _EXPORT),
        (rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml.*)?<svg", message("an SVG drawing"), _EXPORT),
        (rb"\x1aE\xdf\xa3|RIFF....AVI |\0\0\x01[\xba\xb3]", message("a video"), _STILL),
    )
)


def media_type_of(data: bytes) -> str:
    """`JPEG` or `PNG`, by the first bytes. Raises what says that it is another, and what helps."""
    if data.startswith(SIGNATURE):
        return PNG
    if data.startswith(SOI + b"\xff"):
        return JPEG
    raise _other(data[:_HEAD]) or unsuitable(
        message("this is not a picture that is known"), _CONVERT
    )


def _other(head: bytes) -> PedsupError | None:
    if not head:
        return damaged(message("the picture is empty"))
    if head[4:8] == b"ftyp":
        what, remedy = _iso(head)
        return _not_taken(what, remedy)
    for pattern, what, remedy in _OTHERS:
        if pattern.match(head):
            return _not_taken(what, remedy)
    return None


def _iso(head: bytes) -> tuple[Message, Message]:
    """The family of HEIC, AVIF and MP4: its brands come in the first box, the main one first."""
    length = int.from_bytes(head[:4], "big")
    brands = [head[at : at + 4] for at in (8, *range(16, min(length, len(head)), 4))]
    kinds = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
    # AVIF files name HEIF's general brand too.
    kind = b"avif" if b"avif" in kinds else kinds[0] if kinds else None
    return _ISO[kind] if kind else (message("a video"), _STILL)


def _not_taken(what: Message, remedy: Message) -> UnsupportedError:
    return unsuitable(message("this is {what}; only JPEG and PNG are taken", what=what), remedy)
