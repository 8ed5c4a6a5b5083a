"""Pictures of a request: data URLs, and nothing that would have to be fetched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pedsup.engine.limits import cannot_see
from pedsup.errors import PedsupError
from pedsup.messages import message
from pedsup.pictures.limits import MAX_PICTURES
from pedsup.pictures.picture import Picture
from pedsup.pictures.read import picture_from_data_url
from pedsup.serve.faults import ApiError, bad_value, from_pedsup

INVALID: Final = "invalid_image"
"""Code of a picture that is not taken; the message says why, and what to do."""


@dataclass
class Pictures:
    """Takes the pictures of one request.

    Args:
        sees: whether the model takes any.
    """

    sees: bool
    taken: int = 0

    def take(self, url: object, where: str) -> Picture:
        """The picture of a data URL, checked and without its metadata.

        Args:
            where: the field, for the error.

        Raises:
            ApiError: the model sees nothing, there are too many, or it is not one that is accepted.
        """
        if not self.sees:
            error = from_pedsup(cannot_see())
            raise ApiError(400, error.message, "unsupported_parameter", param=where)
        if not isinstance(url, str):
            raise bad_value(where, message("a picture must be a 'data:image/...;base64,' URL"))
        self.taken += 1
        if self.taken > MAX_PICTURES:
            raise bad_value(where, message("at most {n} pictures are taken", n=MAX_PICTURES))
        try:
            return picture_from_data_url(url, where=where)
        except PedsupError as error:
            told = from_pedsup(error)
            raise ApiError(400, told.message, INVALID, param=where) from error
