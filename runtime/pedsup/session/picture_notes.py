"""What is kept of a picture: which one it was, and nothing of what it shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from pedsup.errors import BadFileError
from pedsup.files.checks import Sha256, matching, within
from pedsup.files.records import record
from pedsup.files.source import Source
from pedsup.messages import Message, message
from pedsup.pictures.limits import MAX_BYTES, MAX_PICTURES, MAX_PIXELS
from pedsup.pictures.picture import Picture

PICTURE_GONE: Final = "[picture shown here before: no longer available]"
"""What the model reads in the place of a picture that was not kept."""


@dataclass(frozen=True)
class PictureNote:
    """A picture's identity in a transcript."""

    sha256: Sha256
    media_type: Annotated[str, matching("image/(?:jpeg|png)", "JPEG or PNG")]
    width: Annotated[int, within(1, MAX_PIXELS)]
    height: Annotated[int, within(1, MAX_PIXELS)]
    bytes: Annotated[int, within(1, MAX_BYTES)]

    @classmethod
    def of(cls, picture: Picture) -> PictureNote:
        return cls(
            picture.sha256, picture.media_type, *picture.upright_size, bytes=len(picture.data)
        )

    def text(self) -> Message:
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
    try:
        return record(PictureNote, row, Source("the picture", "a transcript", only_known=False))
    except BadFileError:
        return None
