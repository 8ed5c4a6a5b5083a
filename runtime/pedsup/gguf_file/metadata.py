"""Read and check the key-value part of a GGUF header."""

from __future__ import annotations

import codecs
import math
import struct
from array import array
from typing import Any, Final

from pedsup.errors import BadFileError
from pedsup.gguf_file.cursor import BLOCK, Cursor
from pedsup.gguf_file.limits import (
    DEFAULT_ALIGNMENT,
    MAX_ALIGNMENT,
    MAX_ARRAY,
    MAX_KEY,
    MAX_STRINGS,
    MAX_TEXT,
    MIN_ALIGNMENT,
)
from pedsup.gguf_file.values import FLOATS, KEPT_BYTES, SCALARS, ArrayValue, ValueType
from pedsup.messages import Message, message

ALIGNMENT_KEY: Final = "general.alignment"
_U64 = struct.Struct("<Q")
_TYPES: Final = frozenset(ValueType)
_ASCII: Final = 127
"""A length up to this is eight ASCII bytes: it can be inside UTF-8 text."""


class MetadataReader:
    """Reads key-value pairs; counts what all arrays hold together."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._strings_left = MAX_STRINGS
        self.values: dict[str, object] = {}
        self.types: dict[str, ValueType] = {}

    def read(self, count: int) -> None:
        """Read `count` pairs into `values` and `types`.

        Raises:
            BadFileError: a key twice, or anything that cannot be read.
        """
        cursor = self._cursor
        for number in range(count):
            start = cursor.at
            key = cursor.text(
                MAX_KEY, message("the name of metadata key {n} of {m}", n=number + 1, m=count)
            )
            if not key:
                raise cursor.bad("a metadata key without a name", "a name", at=start)
            if key in self.values:
                raise cursor.bad(
                    message("the metadata key '{key}' appears twice", key=key), "once", at=start
                )
            kind = self._type(key, message("value"))
            self.types[key] = kind
            self.values[key] = self._value(kind, key)

    def _type(self, key: str, what: Message) -> ValueType:
        start = self._cursor.at
        number = self._cursor.u32()
        if number not in _TYPES:
            raise self._cursor.bad(
                message(
                    "the {what} of '{key}' has the type number {n}",
                    what=what,
                    key=key,
                    n=number,
                ),
                "a GGUF value type (0 to 12)",
                at=start,
            )
        return ValueType(number)

    def _value(self, kind: ValueType, key: str) -> Any:
        cursor = self._cursor
        if kind is ValueType.STRING:
            return cursor.text(MAX_TEXT, message("the text '{key}'", key=key))
        if kind is ValueType.ARRAY:
            return self._array(key)
        scalar = SCALARS[kind]
        at = cursor.skip(scalar.size)
        if kind is ValueType.BOOL and cursor.data[at] > 1:
            raise cursor.bad(
                message("'{key}' is {value}", key=key, value=cursor.data[at]),
                "a Boolean: 0 or 1",
                at=at,
            )
        value = scalar.unpack_from(cursor.data, at)[0]
        if kind in FLOATS and not math.isfinite(value):
            raise cursor.bad(
                message("'{key}' is {value}", key=key, value=value), "a finite number", at=at
            )
        return value

    def _array(self, key: str) -> ArrayValue:
        cursor = self._cursor
        at = cursor.at
        element = self._type(key, message("array elements"))
        if element is ValueType.ARRAY:
            raise cursor.bad(
                message("'{key}' is an array of arrays", key=key), "numbers or texts", at=at
            )
        length, start = cursor.u64(), cursor.at
        limit = self._strings_left if element is ValueType.STRING else MAX_ARRAY
        if length > limit:
            raise cursor.bad(
                message("'{key}' has {n} elements", key=key, n=length),
                message("at most {n}", n=limit),
                at=at,
            )
        if element is ValueType.STRING:
            self._strings_left -= length
            self._strings(key, length)
        else:
            cursor.skip(length * SCALARS[element].size)
            self._check_numbers(key, element, start)
        n_bytes = cursor.at - start
        kept = bytes(cursor.data[start : cursor.at]) if n_bytes <= KEPT_BYTES else None
        return ArrayValue(element, length, cursor.path, start, n_bytes, kept)

    def _check_numbers(self, key: str, element: ValueType, start: int) -> None:
        cursor = self._cursor
        if element is ValueType.BOOL:
            if cursor.data[start : cursor.at].translate(None, b"\0\1"):
                raise cursor.bad(
                    message("'{key}' has bytes other than 0 and 1", key=key),
                    "Booleans",
                    at=start,
                )
        elif element in FLOATS:
            numbers = array("f" if element is ValueType.FLOAT32 else "d")
            with memoryview(cursor.data) as view:
                numbers.frombytes(view[start : cursor.at])
            if not all(map(math.isfinite, numbers)):
                raise cursor.bad(
                    message("'{key}' contains NaN or Inf", key=key), "finite numbers", at=start
                )

    def _strings(self, key: str, length: int) -> None:
        """Step over `length` strings, all UTF-8.

        Text between two strings of more than 127 bytes is decoded with the lengths in it: eight
        ASCII bytes, so that no character can reach over the border of a string.
        """
        cursor = self._cursor
        at = plain = cursor.at
        # Their least size, checked before the count sizes anything.
        cursor.need(at + 8 * length)
        data, unpack, have = cursor.data, _U64.unpack_from, len(cursor.data) - 8
        for _ in range(length):
            if at > have:
                cursor.at = at
                cursor.need(at + 8)
                have = len(data) - 8
            n = unpack(data, at)[0]
            if n > _ASCII:
                cursor.at = at
                if n > MAX_TEXT:
                    raise cursor.bad(
                        message("text of {n} bytes in '{key}'", n=n, key=key),
                        message("at most {n}", n=MAX_TEXT),
                    )
                cursor.need(at + 8 + n)
                have = len(data) - 8
                if plain < at:
                    self._check_utf8(key, plain, at)
                self._check_utf8(key, at + 8, at + 8 + n)
                plain = at + 8 + n
            at += 8 + n
        cursor.at = min(at, cursor.size)
        cursor.need(at)
        self._check_utf8(key, plain, at)
        cursor.at = at

    def _check_utf8(self, key: str, start: int, end: int) -> None:
        data = self._cursor.data
        if end - start <= BLOCK:
            # The ordinary case, up to a million times: without a decoder that keeps a state.
            try:
                data[start:end].decode("utf-8")
            except UnicodeDecodeError as error:
                raise self._no_utf8(key, start + error.start) from error
            return
        decoder = codecs.getincrementaldecoder("utf-8")()
        for at in range(start, end, BLOCK):
            stop = min(at + BLOCK, end)
            try:
                decoder.decode(bytes(data[at:stop]), stop == end)
            except UnicodeDecodeError as error:
                # Up to three bytes of a character may be in the block before.
                where = max(start, stop - len(error.object) + error.start)
                raise self._no_utf8(key, where) from error

    def _no_utf8(self, key: str, at: int) -> BadFileError:
        return self._cursor.bad(
            message("'{key}' contains text that is not UTF-8", key=key), "UTF-8 text", at=at
        )


def alignment_of(cursor: Cursor, reader: MetadataReader) -> int:
    """`general.alignment`, or the default.

    Raises:
        BadFileError: not a uint32, not a power of two, or out of any sane range.
    """
    value = reader.values.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT)
    kind = reader.types.get(ALIGNMENT_KEY, ValueType.UINT32)
    if (
        kind is not ValueType.UINT32
        or not isinstance(value, int)
        or not MIN_ALIGNMENT <= value <= MAX_ALIGNMENT
        or value & (value - 1)
    ):
        raise cursor.bad(
            message(
                "'{key}' is {value} ({type})", key=ALIGNMENT_KEY, value=repr(value), type=kind.name
            ),
            message(
                "a power of two from {low} to {high} (UINT32)",
                low=MIN_ALIGNMENT,
                high=MAX_ALIGNMENT,
            ),
        )
    return value
