"""Bytes of tokens to text: a token may end in the middle of a character, the text may not."""

from __future__ import annotations

import codecs


class Utf8Stream:
    """Decodes a stream of bytes; a character comes out when its last byte is in.

    Bytes that are not UTF-8 come out as U+FFFD, one per broken sequence.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> str:
        """The characters that `data` completes."""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """What an unfinished character at the end comes to: '' or U+FFFD."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text
