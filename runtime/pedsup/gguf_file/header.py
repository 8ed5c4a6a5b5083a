"""The GGUF header: metadata and tensor table, read from a memory map with every size checked.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

    magic "GGUF" | u32 version | u64 n_tensors | u64 n_kv
    n_kv     x ( string key | u32 value type | value )
    n_tensors x ( string name | u32 n_dims | n_dims x u64 | u32 ggml type | u64 offset )
    padding to `general.alignment` | tensor data

No count from the file sizes an allocation before it was compared with the bytes that are
there; arrays are walked, not copied, and decoded only when asked for.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from math import prod
from pathlib import Path
from typing import Any, Final

from pedsup.errors import BadFileError
from pedsup.gguf_file.ggml_types import GGML_TYPES, GGMLType

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
MAX_NAME: Final = 63
"""ggml's GGML_MAX_NAME counts the final zero byte."""
MAX_DIMS: Final = 4
MAX_KEY: Final = 65535
MAX_ENTRIES: Final = 1 << 16
"""More metadata keys or tensors than any model has: a forged count, not a large model."""
MAX_ARRAY: Final = 1 << 26
DEFAULT_ALIGNMENT: Final = 32
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


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


_SCALARS: Final[dict[int, struct.Struct]] = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}


class _Cursor:
    """A position in the mapped file that cannot pass its end."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at, self.end = data, path, 0, len(data)

    def bad(self, found: str, wanted: str) -> BadFileError:
        return BadFileError(
            found,
            where=f"{self.path}, byte {self.at}",
            wanted=wanted,
            remedy="the file is damaged or no model: copy it again and compare its SHA-256",
        )

    def skip(self, n: int) -> int:
        """Step over `n` bytes; the position before them."""
        at = self.at
        if n > self.end - at:
            raise self.bad(f"{n} bytes announced, {self.end - at} left in the file", "a whole file")
        self.at = at + n
        return at

    def u32(self) -> int:
        return int(_U32.unpack_from(self.data, self.skip(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack_from(self.data, self.skip(8))[0])

    def raw_string(self, limit: int) -> bytes:
        length = self.u64()
        if length > limit:
            raise self.bad(f"a string of {length} bytes", f"at most {limit} bytes here")
        at = self.skip(length)
        return self.data[at : at + length]

    def text(self, limit: int, what: str) -> str:
        raw = self.raw_string(limit)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.bad(f"{what} is not UTF-8", "UTF-8 text") from error


@dataclass(frozen=True)
class ArrayValue:
    """An array in the metadata, left in the file until it is asked for."""

    element: ValueType
    length: int
    _offset: int
    _data: mmap.mmap

    def __len__(self) -> int:
        return self.length

    def raw_strings(self) -> Iterator[bytes]:
        """The elements of a string array as bytes (a vocabulary may hold invalid UTF-8)."""
        if self.element is not ValueType.STRING:
            raise TypeError(f"array of {self.element.name}, not of strings")
        at = self._offset
        for _ in range(self.length):
            n = int(_U64.unpack_from(self._data, at)[0])
            yield self._data[at + 8 : at + 8 + n]
            at += 8 + n

    def values(self) -> list[Any]:
        """All elements as Python values; strings are decoded with replacement of invalid bytes."""
        if self.element is ValueType.STRING:
            return [raw.decode("utf-8", "replace") for raw in self.raw_strings()]
        code = _SCALARS[self.element].format[1:]
        return list(struct.unpack_from(f"<{self.length}{code}", self._data, self._offset))


@dataclass(frozen=True)
class TensorInfo:
    """One row of the tensor table. `shape` is in ggml's order: the row length first."""

    name: str
    shape: tuple[int, ...]
    type: GGMLType
    offset: int
    """Bytes from the start of the tensor data, a multiple of the alignment."""

    @property
    def n_elements(self) -> int:
        return prod(self.shape)

    @property
    def n_bytes(self) -> int:
        return self.type.row_bytes(self.shape[0]) * prod(self.shape[1:])


@dataclass(frozen=True)
class GGUFHeader:
    """A checked header. `metadata` values are int, float, bool, str or `ArrayValue`."""

    path: Path
    version: int
    metadata: dict[str, Any]
    value_types: dict[str, ValueType]
    tensors: dict[str, TensorInfo]
    alignment: int
    data_offset: int
    """Byte of the file where tensor data starts."""
    file_size: int

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    def get(self, key: str, default: Any = None) -> Any:
        """Metadata by full key, or by `%s` for the architecture's name: `get('%s.block_count')`."""
        return self.metadata.get(key.replace("%s", self.architecture), default)


def read_header(path: str | Path) -> GGUFHeader:
    """Read and check the header of a GGUF file; tensor data is not touched.

    Raises:
        BadFileError: it is no GGUF, it is truncated, or a count, length, type, dimension,
            alignment or offset in it cannot be right.
    """
    path = Path(path)
    if not path.is_file():
        raise BadFileError("no such file", where=path, remedy="check the path")
    size = path.stat().st_size
    if size < 24:
        raise BadFileError(f"a file of {size} bytes", where=path, wanted="a GGUF model")
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    cursor = _Cursor(data, path)
    version, n_tensors, n_kv = _read_prefix(cursor)
    metadata: dict[str, Any] = {}
    value_types: dict[str, ValueType] = {}
    for _ in range(n_kv):
        key = cursor.text(MAX_KEY, "a metadata key")
        if key in metadata:
            raise cursor.bad(f"the metadata key '{key}' stands twice", "each key once")
        value_types[key], metadata[key] = _read_value(cursor, key)
    alignment = _alignment(cursor, metadata)
    tensors = _read_tensor_table(cursor, n_tensors, alignment)
    data_offset = -(-cursor.at // alignment) * alignment
    header = GGUFHeader(path, version, metadata, value_types, tensors, alignment, data_offset, size)
    _check_layout(header)
    return header


def _read_prefix(cursor: _Cursor) -> tuple[int, int, int]:
    magic = cursor.data[cursor.skip(4) : 4]
    if magic != MAGIC:
        raise cursor.bad(f"the file starts with {magic!r}", "a GGUF model (b'GGUF')")
    version = cursor.u32()
    if version not in VERSIONS:
        raise cursor.bad(f"GGUF version {version}", f"version {' or '.join(map(str, VERSIONS))}")
    n_tensors, n_kv = cursor.u64(), cursor.u64()
    if n_tensors > MAX_ENTRIES or n_kv > MAX_ENTRIES:
        raise cursor.bad(f"{n_tensors} tensors and {n_kv} keys", f"at most {MAX_ENTRIES} of each")
    return version, n_tensors, n_kv


def _read_value(cursor: _Cursor, key: str) -> tuple[ValueType, Any]:
    number = cursor.u32()
    if number not in ValueType.__members__.values():
        raise cursor.bad(f"value type {number} for '{key}'", "a type from 0 to 12")
    kind = ValueType(number)
    if kind is ValueType.STRING:
        return kind, cursor.text(cursor.end, f"the value of '{key}'")
    if kind is ValueType.ARRAY:
        return kind, _read_array(cursor, key)
    scalar = _SCALARS[kind]
    return kind, scalar.unpack_from(cursor.data, cursor.skip(scalar.size))[0]


def _read_array(cursor: _Cursor, key: str) -> ArrayValue:
    number, length = cursor.u32(), cursor.u64()
    if number not in ValueType.__members__.values() or number == ValueType.ARRAY:
        raise cursor.bad(f"array of type {number} for '{key}'", "an array of scalars or strings")
    if length > MAX_ARRAY:
        raise cursor.bad(f"array of {length} elements for '{key}'", f"at most {MAX_ARRAY}")
    element = ValueType(number)
    start = cursor.at
    if element is not ValueType.STRING:
        cursor.skip(length * _SCALARS[element].size)
        return ArrayValue(element, length, start, cursor.data)
    # The hot loop of a 262144-token vocabulary: no method calls in it.
    data, at, limit, unpack = cursor.data, start, cursor.end - 8, _U64.unpack_from
    for _ in range(length):
        if at > limit:
            cursor.at = min(at, cursor.end)
            raise cursor.bad(f"the array '{key}' passes the end of the file", "a whole file")
        at += 8 + unpack(data, at)[0]
    cursor.at = start
    cursor.skip(at - start)
    return ArrayValue(element, length, start, data)


def _alignment(cursor: _Cursor, metadata: dict[str, Any]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if (
        not isinstance(alignment, int)
        or isinstance(alignment, bool)
        or not 8 <= alignment <= 65536
        or alignment & (alignment - 1)
    ):
        raise cursor.bad(f"general.alignment is {alignment!r}", "a power of two from 8 to 65536")
    return alignment


def _read_tensor_table(cursor: _Cursor, count: int, alignment: int) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for _ in range(count):
        name = cursor.text(MAX_NAME, "a tensor name")
        n_dims = cursor.u32()
        if not 1 <= n_dims <= MAX_DIMS:
            raise cursor.bad(f"tensor '{name}' has {n_dims} dimensions", f"1 to {MAX_DIMS}")
        shape = tuple(cursor.u64() for _ in range(n_dims))
        number, offset = cursor.u32(), cursor.u64()
        kind = GGML_TYPES.get(number)
        if kind is None:
            raise cursor.bad(f"tensor '{name}' has type number {number}", "a ggml tensor type")
        if name in tensors:
            raise cursor.bad(f"the tensor '{name}' stands twice", "each tensor once")
        # Python's integers do not overflow, so the product itself is the test.
        if not all(shape) or prod(shape) > 1 << 48 or shape[0] % kind.block_size:
            raise cursor.bad(
                f"tensor '{name}' of type {kind.name} has the dimensions {shape}",
                f"dimensions above 0, rows a multiple of {kind.block_size}",
            )
        if offset % alignment:
            raise cursor.bad(f"tensor '{name}' starts at {offset}", f"a multiple of {alignment}")
        tensors[name] = TensorInfo(name, shape, kind, offset)
    return tensors


def _check_layout(header: GGUFHeader) -> None:
    """Tensor data must lie inside the file, without overlap and without a hole."""
    expected = 0
    for tensor in sorted(header.tensors.values(), key=lambda t: t.offset):
        if tensor.offset != expected:
            what = "overlaps the one before it" if tensor.offset < expected else "leaves a hole"
            raise BadFileError(
                f"tensor '{tensor.name}' {what}",
                where=f"{header.path}, tensor data offset {tensor.offset}",
                wanted=f"offset {expected}",
                remedy="the file is damaged: copy it again and compare its SHA-256",
            )
        end = header.data_offset + tensor.offset + tensor.n_bytes
        if end > header.file_size:
            raise BadFileError(
                f"the file ends inside or before tensor '{tensor.name}'",
                where=f"{header.path}: {header.file_size} bytes",
                wanted=f"at least {end} bytes",
                remedy="the copy is truncated: copy it again and compare its SHA-256",
            )
        padded = -(-tensor.n_bytes // header.alignment) * header.alignment
        expected = tensor.offset + padded
