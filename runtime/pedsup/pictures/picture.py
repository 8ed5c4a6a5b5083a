"""A picture that was checked."""

from __future__ import annotations

from dataclasses import dataclass, field

UPRIGHT = 1
TURNED = (5, 6, 7, 8)
"""Orientations in which a picture is stored lying on its side."""


@dataclass(frozen=True)
class Picture:
    """One still picture as a file, without metadata.

    `pedsup.pictures.read` makes it; nobody else should.
    """

    data: bytes = field(repr=False)
    """The bytes of a JPEG or PNG file, written anew from the parts that a decoder needs."""
    media_type: str
    """`image/jpeg` or `image/png`."""
    width: int
    """Pixels, as stored."""
    height: int
    sha256: str
    """Hex digest of `data`: the identity of the picture."""
    orientation: int = UPRIGHT
    """How it is to be turned to be seen upright: EXIF's number, 1 to 8. It stood in the metadata,
    and is no longer in `data`."""

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height as a person sees it."""
        lies = self.orientation in TURNED
        return (self.height, self.width) if lies else (self.width, self.height)
