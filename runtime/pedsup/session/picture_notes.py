"""What is kept of a picture: which one it was, and nothing of what it shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pedsup.messages import Message, message
from pedsup.pictures.limits import MAX_BYTES, MAX_PICTURES, MAX_PIXELS
from pedsup.pictures.picture import Picture

PICTURE_GONE: Final = "[picture shown here before: no longer available]"
"""What the model reads in the place of a picture that was not kept."""
_TYPES: Final = ("image/jpeg", "image/png")
_HEX: Final = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class PictureNote:
    """A picture's identity in a transcript."""

    sha256: str
    media_type: str
    width: int
    height: int
    bytes: int

    @classmethod
    def of(cls, picture: Picture) -> PictureNote:
        """The note of a picture."""
        return cls(
            picture.sha256, picture.media_type, *picture.upright_size, bytes=len(picture.data)
        )

    def text(self) -> Message:
        """One line for a reader."""
        return message(
            "picture: {width} x {height} pixels, {n} bytes, SHA-256 {digest}",
            width=self.width,
            height=self.height,
            n=self.bytes,
            digest=self.sha256[:12],
        )


def picture_notes(rows: object) -> tuple[PictureNote, ...]:
    """The notes in a record of a transcript, which may hold anything."""
    found = rows[:MAX_PICTURES] if isinstance(rows, list) else []
    notes = (_note(row) for row in found if isinstance(row, dict))
    return tuple(note for note in notes if note is not None)


def _note(row: dict[str, object]) -> PictureNote | None:
    digest, media_type = row.get("sha256"), row.get("media_type")
    if not isinstance(digest, str) or len(digest) != 64 or not set(digest) <= _HEX:
        return None
    if media_type not in _TYPES:
        return None
    sizes = [row.get(name) for name in ("width", "height", "bytes")]
    limits = (MAX_PIXELS, MAX_PIXELS, MAX_BYTES)
    whole = [
        size
        for size, most in zip(sizes, limits, strict=True)
        if isinstance(size, int) and not isinstance(size, bool) and 0 < size <= most
    ]
    return PictureNote(digest, str(media_type), *whole) if len(whole) == len(limits) else None
