"""A position in a file's header that passes neither the file's end nor the limit of a header.

The bytes are read, not mapped: a file that is cut while it is looked at gives an error here,
where a memory map gives SIGBUS.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, Final

from pedsup.errors import BadFileError
from pedsup.gguf_file.limits import MAX_HEADER, MAX_TEXTS
from pedsup.messages import as_message, message

AGAIN: Final = message("the file is damaged or not a model: copy it again and compare its SHA-256")
BLOCK: Final = 1 << 20
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


class Cursor:
    """Reads little-endian values; every error names the byte where the value starts."""

    def __init__(self, file: BinaryIO, size: int, path: Path) -> None:
        self.path, self.size, self.at = path, size, 0
        self.data = bytearray()
        """The header as read so far; it only grows."""
        self._texts_left = MAX_TEXTS
        self._file = file

    def bad(self, found: str, wanted: str, *, at: int | None = None) -> BadFileError:
        """An error about the bytes at `at` (None: the current position)."""
        return BadFileError(
            found,
            where=message("{place}, byte {n}", place=self.path, n=self.at if at is None else at),
            wanted=wanted,
            remedy=AGAIN,
        )

    def need(self, end: int) -> None:
        """Read the bytes up to `end` into `data`.

        Raises:
            BadFileError: the file ends before, or the header would be too large.
        """
        if end <= len(self.data):
            return
        if end > self.size:
            raise self.bad(
                message(
                    "{n} bytes announced, {left} left in the file",
                    n=end - self.at,
                    left=self.size - self.at,
                ),
                "a complete file",
            )
        if end > MAX_HEADER:
            raise self.bad(
                message("a header that reaches byte {n}", n=end),
                message("a header of at most {n} bytes", n=MAX_HEADER),
            )
        while len(self.data) < end:
            block = self._file.read(min(BLOCK, self.size - len(self.data)))
            if not block:
                raise self.bad("the file was cut while it was read", "a complete file")
            self.data += block

    def skip(self, n: int) -> int:
        """Step over `n` bytes; the position before them."""
        at = self.at
        self.need(at + n)
        self.at = at + n
        return at

    def u32(self) -> int:
        return int(_U32.unpack_from(self.data, self.skip(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack_from(self.data, self.skip(8))[0])

    def text(self, limit: int, what: str) -> str:
        """A string: u64 length, then UTF-8 without a zero byte.

        llama.cpp compares names as C strings: after a zero byte it would read another name
        than this reader.
        """
        start, named = self.at, as_message(what)
        length = self.u64()
        if length > limit:
            found = message("{what} of {n} bytes", what=named, n=length)
            raise self.bad(found, message("at most {n} bytes", n=limit), at=start)
        self._texts_left -= length
        if self._texts_left < 0:
            raise self.bad(
                message(
                    "with {what} there are more than {n} bytes of keys, names and texts",
                    what=named,
                    n=MAX_TEXTS,
                ),
                message("at most {n} bytes", n=MAX_TEXTS),
                at=start,
            )
        at = self.skip(length)
        raw = bytes(self.data[at : self.at])
        if 0 in raw:
            found = message("a zero byte in {what}", what=named)
            raise self.bad(found, "text without zero bytes", at=start)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.bad(
                message("{what} is not UTF-8", what=named),
                "UTF-8 text",
                at=at + error.start,
            ) from error
