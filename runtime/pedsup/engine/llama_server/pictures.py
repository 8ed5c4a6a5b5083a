"""Pictures for `llama-server`: it wants a prompt with pictures as one text with marks.

A text is tokenized by the server, control tokens included, so that one which spells them in a
message would be taken at its word. Such a prompt is refused; without pictures prompts go as tokens.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pedsup.engine.limits import cannot_see
from pedsup.engine.picture_ids import MAX_REMEMBERED, picture_id, spans
from pedsup.errors import UnsupportedError
from pedsup.gguf_file.projector import Projector
from pedsup.gguf_file.projector_fields import GEMMA3, GEMMA4
from pedsup.messages import message
from pedsup.pictures.picture import UPRIGHT, Picture
from pedsup.progress import say

DEFAULT_MARKER: Final = "<__media__>"
"""Of servers that have no marker of their own."""
_AROUND: Final = {
    GEMMA3: ("<start_of_image>", "<end_of_image>"),
    GEMMA4: ("<|image>", "<image|>"),
}
"""What llama.cpp puts before and behind a picture's embeddings."""

Tokenize = Callable[[str], list[int]]
"""A text to its tokens, control tokens recognised."""


@dataclass
class ShownPictures:
    """The pictures of one server, by their ids."""

    projector: Projector | None
    most_tokens: int
    tokenize: Tokenize
    _shown: dict[int, Picture] = field(default_factory=dict)
    _sizes: dict[int, int] = field(default_factory=dict)

    def see(self, picture: Picture) -> list[int]:
        """See `pedsup.engine.api.Engine.see`."""
        if self.projector is None:
            raise cannot_see()
        if not self.projector.known:
            raise UnsupportedError(
                message("a projector of the kind '{kind}'", kind=self.projector.kind),
                where=self.projector.header.path,
                wanted=message("one of: {names}", names=", ".join(_AROUND)),
                remedy="give --engine inprocess, which runs others",
            )
        id = picture_id(picture)
        if id not in self._shown and picture.orientation != UPRIGHT:
            say(
                message(
                    "note: this photo is stored lying on its side, and llama-server does not turn "
                    "it: turn it in another program first"
                )
            )
        self._shown.pop(id, None)
        self._shown[id] = picture  # the last one shown
        while len(self._shown) > MAX_REMEMBERED:
            del self._sizes[oldest := next(iter(self._shown))], self._shown[oldest]
        self._sizes[id] = n = self.projector.tokens(picture.width, picture.height, self.most_tokens)
        before, behind = self._around()
        return [*before, *[id] * n, *behind]

    def prompt(
        self, tokens: Sequence[int], marker: str, text_of: Callable[[Sequence[int]], str]
    ) -> Mapping[str, object] | None:
        """The prompt as the server takes it; None for one without pictures.

        Args:
            text_of: tokens to their text, control tokens included.

        Raises:
            UnsupportedError: a message spells a control token or the marker.
        """
        places = list(spans(tokens, self._sizes))
        if not places:
            return None
        before, behind = map(len, self._around())
        texts, at = [], 0
        for begin, end in places:
            texts.append(self._text(tokens[at : begin - before], marker, text_of))
            at = end + behind
        texts.append(self._text(tokens[at:], marker, text_of))
        data = [self._shown[tokens[begin]].data for begin, _ in places]
        return {
            "prompt_string": marker.join(texts),
            "multimodal_data": [base64.b64encode(one).decode("ascii") for one in data],
        }

    def _around(self) -> tuple[list[int], list[int]]:
        assert self.projector is not None
        before, behind = _AROUND[self.projector.kind]
        return self.tokenize(before), self.tokenize(behind)

    def _text(
        self, tokens: Sequence[int], marker: str, text_of: Callable[[Sequence[int]], str]
    ) -> str:
        text = text_of(tokens) if tokens else ""
        read = self.tokenize(text) if text else []
        controls = [[t for t in some if _is_control(text_of([t]))] for some in (tokens, read)]
        if marker in text or controls[0] != controls[1]:
            raise UnsupportedError(
                "a message spells one of the model's control tokens",
                wanted="a conversation with pictures that llama-server can be given as text",
                remedy="start afresh (/reset) and leave that text out, or use --engine inprocess",
            )
        return text


def _is_control(text: str) -> bool:
    return len(text) > 2 and text.startswith("<") and text.endswith(">")
