"""Splits what a model writes into reasoning and answer, and keeps every marker out of both.

Gemma 4 writes `<|channel>thought\\n` reasoning `<channel|>` answer. The markers are tokens of
their own, but a damaged or fine-tuned model may spell them, open a channel twice, close it twice
or never: markers are therefore found in the text, wherever its tokens end.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from pedsup.chat.templates.known import ThoughtMarkers


class Channel(Enum):
    """Where the text goes."""

    ANSWER = "answer"
    REASONING = "reasoning"


class Part(NamedTuple):
    """A piece of visible text and its channel."""

    channel: Channel
    text: str


class ChannelParser:
    """Feed text as it comes; visible parts come out, markers do not.

    Args:
        thought: the model's channel markers, or None when it has no thought channel.
        stops: texts that end the turn when the model writes them (the start of a next turn).
    """

    def __init__(self, thought: ThoughtMarkers | None, stops: tuple[str, ...] = ()) -> None:
        self._thought, self._stops = thought, stops
        self._markers = (*((thought.opening, thought.closing) if thought else ()), *stops)
        self._buffer = ""
        self._in_header = False
        self._blank = thought is not None
        self.channel = Channel.ANSWER
        self.opened = self.closed = 0
        """How many times a channel was opened and closed, stray markers included."""
        self.stopped = False
        """A stop text was seen: nothing after it is part of the turn."""

    @property
    def thinking(self) -> bool:
        return self.channel is Channel.REASONING

    @property
    def just_opened(self) -> bool:
        """Whether a channel was opened and nothing was written into it yet."""
        return self._in_header and not self._buffer

    def is_marker(self, piece: bytes) -> bool:
        """Whether a token's text is a marker as a whole: MedGemma's are placeholders elsewhere."""
        return piece[:1] == b"<" and piece.decode("utf-8", "replace") in self._markers

    def resume(self) -> None:
        """Go on after a stop text, which is forgotten."""
        if self.stopped:
            self.stopped, self._buffer = False, ""

    def feed(self, text: str) -> Iterator[Part]:
        """The parts that `text` completes; what may be the start of a marker is held back."""
        self._buffer += text
        while self._buffer and not self.stopped:
            if self._in_header and not self._take_header():
                return
            at, marker = self._first_marker()
            if marker is None:
                at = len(self._buffer) - open_end(self._buffer, self._markers)
            text, self._buffer = self._buffer[:at], self._buffer[at:]
            yield from self._visible(text)
            if marker is None:
                return
            self._buffer = self._buffer[len(marker) :]
            self._cross(marker)

    def flush(self) -> Iterator[Part]:
        """What was held back, at the end of the model's text."""
        text, self._buffer = self._buffer, ""
        if self._in_header and self._thought and self._thought.header.startswith(text):
            text = ""
        # Half a marker at the very end was cut off; it is not a word.
        cut_off = len(text) > 1 and any(m.startswith(text) for m in self._markers)
        if not self.stopped and not cut_off:
            yield from self._visible(text)
        self._in_header = False

    def _visible(self, text: str) -> Iterator[Part]:
        if self.channel is Channel.ANSWER and self._blank:
            # The templates trim the answer; the newlines after a closed channel are not shown.
            text = text.lstrip()
            self._blank = not text
        if text:
            yield Part(self.channel, text)

    def _cross(self, marker: str) -> None:
        if marker in self._stops:
            self.stopped = True
        elif self._thought and marker == self._thought.opening:
            self.opened += 1
            self.channel, self._in_header = Channel.REASONING, True
        else:
            self.closed += 1
            self.channel, self._in_header = Channel.ANSWER, False

    def _take_header(self) -> bool:
        """Drop the channel's name; False while it is not known yet whether it is one."""
        assert self._thought is not None
        header = self._thought.header
        if len(self._buffer) < len(header) and header.startswith(self._buffer):
            return False
        for name in (header, header.strip()):
            if self._buffer.startswith(name):
                self._buffer = self._buffer[len(name) :]
                break
        self._in_header = False
        return True

    def _first_marker(self) -> tuple[int, str | None]:
        found = [(at, m) for m in self._markers if (at := self._buffer.find(m)) >= 0]
        return min(found) if found else (-1, None)


def open_end(text: str, markers: tuple[str, ...]) -> int:
    """Length of the longest end of a text that one of the markers may begin with."""
    longest = max(map(len, markers), default=1) - 1
    for n in range(min(longest, len(text)), 0, -1):
        if any(marker.startswith(text[-n:]) for marker in markers):
            return n
    return 0
