"""The values of GGUF metadata: scalars, and arrays that stay in the file until asked for."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from pedsup.errors import BadFileError
from pedsup.gguf_file.cursor import AGAIN
from pedsup.messages import message

_U64 = struct.Struct("<Q")
KEPT_BYTES: Final = 1 << 16
"""Arrays up to this size (one value per layer) are kept; a vocabulary is read again."""


class ValueType(IntEnum):
    """The value types of GGUF metadata."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


FLOATS: Final = frozenset({ValueType.FLOAT32, ValueType.FLOAT64})
SCALARS: Final[dict[int, struct.Struct]] = {
    ValueType.UINT8: struct.Struct("<B"),
    ValueType.INT8: struct.Struct("<b"),
    ValueType.UINT16: struct.Struct("<H"),
    ValueType.INT16: struct.Struct("<h"),
    ValueType.UINT32: struct.Struct("<I"),
    ValueType.INT32: struct.Struct("<i"),
    ValueType.FLOAT32: struct.Struct("<f"),
    ValueType.BOOL: struct.Struct("<?"),
    ValueType.UINT64: struct.Struct("<Q"),
    ValueType.INT64: struct.Struct("<q"),
    ValueType.FLOAT64: struct.Struct("<d"),
}


@dataclass(frozen=True)
class ArrayValue:
    """A checked array in the metadata: `n_bytes` at byte `offset` of the file."""

    element: ValueType
    length: int
    path: Path = field(repr=False)
    offset: int
    n_bytes: int
    _kept: bytes | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return self.length

    def raw(self) -> bytes:
        """The array's bytes. Raises `BadFileError` if the file was cut after it was checked."""
        if self._kept is not None:
            return self._kept
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.n_bytes)
        if len(data) != self.n_bytes:
            raise self._changed()
        return data

    def raw_strings(self) -> Iterator[bytes]:
        """The elements of a string array, one after another.

        Raises:
            BadFileError: the file was changed after it was checked.
        """
        if self.element is not ValueType.STRING:
            raise TypeError(f"array of {self.element.name}, not of strings")
        data, at, unpack = self.raw(), 0, _U64.unpack_from
        last = len(data) - 8
        for _ in range(self.length):
            if at > last:
                raise self._changed()
            end = at + 8 + unpack(data, at)[0]
            yield data[at + 8 : end]
            at = end

    def values(self) -> list[Any]:
        """All elements as Python values; strings are decoded."""
        if self.element is ValueType.STRING:
            return [raw.decode("utf-8", "replace") for raw in self.raw_strings()]
        code = SCALARS[self.element].format[1:]
        return list(struct.unpack(f"<{self.length}{code}", self.raw()))

    def _changed(self) -> BadFileError:
        return BadFileError(
            "the file was changed while it was read",
            where=message("{place}, byte {n}", place=self.path, n=self.offset),
            wanted="a file that nothing writes to",
            remedy=AGAIN,
        )
