"""Why a picture is not taken. `pedsup.pictures.read` adds the place: a file's name, or a field."""

from __future__ import annotations

from typing import Final

from pedsup.errors import BadFileError, UnsupportedError
from pedsup.messages import message
from pedsup.pictures.limits import MAX_DECODED, MAX_PIXELS, MAX_RATIO, MIN_SIDE

MEGA: Final = 1_000_000


def damaged(found: str) -> BadFileError:
    """The bytes are not what their format promises."""
    return BadFileError(
        found,
        wanted="a whole JPEG or PNG file",
        remedy="copy the picture again, or open it in the gallery and take a screenshot of it",
    )


def unsuitable(found: str, remedy: str) -> UnsupportedError:
    """A whole file, but not of a kind that is taken."""
    return UnsupportedError(found, wanted="one still picture, JPEG or PNG", remedy=remedy)


SMALLER: Final = message(
    "make it smaller in the gallery (crop, resize, or take a screenshot of it); the page of "
    "`pedsup-run MODEL --serve` does so by itself"
)


def require_size(width: int, height: int) -> None:
    """Refuse what is too large, too small or too long, by the size that the file declares."""
    if width * height > MAX_PIXELS:
        raise unsuitable(
            message(
                "the picture has {width} x {height} pixels; at most {n} megapixels are taken",
                width=width, height=height, n=MAX_PIXELS // MEGA,
            ),
            SMALLER,
        )  # fmt: skip
    if min(width, height) < MIN_SIDE:
        raise unsuitable(
            message(
                "the picture has {width} x {height} pixels; that shows nothing",
                width=width, height=height,
            ),
            message("give a picture of at least {n} x {n} pixels", n=MIN_SIDE),
        )  # fmt: skip
    if max(width, height) > MAX_RATIO * min(width, height):
        raise unsuitable(
            message(
                "the picture has {width} x {height} pixels: one side is more than {n} times as "
                "long as the other",
                width=width, height=height, n=MAX_RATIO,
            ),
            message("cut it into several pictures"),
        )  # fmt: skip


def require_decodable(n_bytes: int) -> None:
    """Refuse what would take too much memory to decode."""
    if n_bytes > MAX_DECODED:
        raise unsuitable(
            message(
                "decoding the picture would take {n} MB of memory; at most {limit} MB are allowed",
                n=n_bytes // MEGA, limit=MAX_DECODED // MEGA,
            ),
            SMALLER,
        )  # fmt: skip
