"""Pictures among the tokens of a prompt: runs of a negative id that follows from the content.

Tokens are not negative. A picture takes as many places as it has embeddings, all with one id, so
that a list of numbers still says what a prompt is, where two prompts part, and how long they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from pedsup.errors import UsageError
from pedsup.pictures.picture import Picture

MAX_REMEMBERED: Final = 128
"""Pictures that an engine remembers, those shown last. A prompt is made of them anew for each turn:
no context that a phone has room for holds more."""


def picture_id(picture: Picture, part: int = 0) -> int:
    """The id of a picture, or of one of several parts that an engine cuts it into."""
    text = f"{picture.sha256}:{picture.orientation}:{part}"
    return -1 - int.from_bytes(hashlib.sha256(text.encode("ascii")).digest()[:8], "big")


def spans(prompt: Sequence[int], sizes: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    """Where pictures are in a prompt: begin and end of each, in order.

    Args:
        sizes: how many places each id takes.

    Raises:
        UsageError: a picture that is not known, or cut.
    """
    at = 0
    while at < len(prompt):
        if (found := prompt[at]) >= 0:
            at += 1
            continue
        end = at + sizes.get(found, 0)
        if end == at or any(token != found for token in prompt[at:end]) or end > len(prompt):
            raise UsageError("the prompt has a picture that this engine was not shown")
        yield at, end
        at = end


def uncut(n: int, places: Sequence[tuple[int, int]]) -> int:
    """The largest number of leading tokens, at most `n`, that ends inside no picture."""
    return next((begin for begin, end in places if begin < n < end), n)


def without_pictures(prompt: Sequence[int]) -> list[int]:
    return [token for token in prompt if token >= 0]
