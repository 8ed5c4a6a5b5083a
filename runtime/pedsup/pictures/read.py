"""The door: bytes of an untrusted file become a `Picture`, or an error that says what to do."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from pathlib import Path
from typing import Final

from pedsup.errors import PedsupError, UnsupportedError
from pedsup.files.json_file import read_first
from pedsup.messages import message
from pedsup.pictures.faults import MEGA, SMALLER, damaged, unsuitable
from pedsup.pictures.jpeg import bare_jpeg
from pedsup.pictures.kinds import JPEG, media_type_of
from pedsup.pictures.limits import MAX_BYTES
from pedsup.pictures.picture import Picture
from pedsup.pictures.png import bare_png

_DATA_URL: Final = re.compile(r"data:image/[a-zA-Z0-9.+-]{1,40};base64,", re.ASCII)
MAX_DATA_URL: Final = 80 + -(-MAX_BYTES // 3) * 4
"""Characters."""


def picture_from_bytes(data: bytes, *, where: str) -> Picture:
    """Check a picture and leave its metadata out. What it is, its bytes say, not its name.

    Args:
        where: the file, or its place in a request, for the error.

    Raises:
        BadFileError: it is cut off or damaged.
        UnsupportedError: too large, animated, transparent, or not a JPEG or PNG that is taken.
    """
    try:
        return _checked(data)
    except PedsupError as error:
        raise error.at(where) from None


def read_picture(path: Path) -> Picture:
    """The picture in a file, checked as by `picture_from_bytes`.

    Raises:
        BadFileError: it is missing, cannot be read, is cut off or damaged.
        UnsupportedError: too large, animated, transparent, or not a JPEG or PNG that is taken.
    """
    # One byte more than is taken, so that a larger file is refused for what it is.
    data = read_first(path, message("the picture"), MAX_BYTES + 1)
    return picture_from_bytes(data, where=str(path))


def picture_from_data_url(url: str, *, where: str) -> Picture:
    """The picture in a `data:image/...;base64,` URL. No other URL is ever followed.

    Raises:
        BadFileError: not base64, cut off or damaged.
        UnsupportedError: another URL, or a picture that is not taken.
    """
    try:
        return _checked(_decoded(url))
    except PedsupError as error:
        raise error.at(where) from None


def _decoded(url: str) -> bytes:
    head = _DATA_URL.match(url)
    if head is None:
        raise unsuitable(
            message("pictures are taken as 'data:image/...;base64,' URLs only: nothing is fetched"),
            message("put the picture's bytes into the request, in base64"),
        )
    if len(url) > MAX_DATA_URL:
        raise _too_many_bytes()
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise damaged(message("the picture is not valid base64")) from None


def _checked(data: bytes) -> Picture:
    kind = media_type_of(data)
    if len(data) > MAX_BYTES:
        raise _too_many_bytes()
    bare = bare_jpeg(data) if kind == JPEG else bare_png(data)
    digest = hashlib.sha256(bare.data).hexdigest()
    return Picture(bare.data, kind, bare.width, bare.height, digest, bare.orientation)


def _too_many_bytes() -> UnsupportedError:
    return unsuitable(message("the picture has more than {n} MB", n=MAX_BYTES // MEGA), SMALLER)
