"""The header of a safetensors file, every size checked before it is used.

Format: https://github.com/huggingface/safetensors#format

    u64 little-endian n | n bytes of JSON | tensor data

    {"__metadata__": {str: str}, NAME: {"dtype": D, "shape": [..], "data_offsets": [begin, end]}}

The offsets count from the first byte after the header. The tensors must cover the data
without overlap or hole, as the reference implementation demands. Nothing from the file
sizes an allocation before it was compared with the bytes that are there.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Final

from pedsup.errors import BadFileError
from pedsup.files.direct_io import DirectFile

MAX_HEADER: Final = 32 << 20
"""Bytes of JSON. A shard of the largest models has some hundred thousand; the reference
implementation accepts 100 million, which as Python objects would be gigabytes."""
MAX_TENSORS: Final = 1 << 17
MAX_DIMS: Final = 32
MAX_NAME: Final = 256
_LENGTH = struct.Struct("<Q")
_AGAIN: Final = "the file is damaged: copy or download it again and compare its SHA-256"

DTYPES: Final[Mapping[str, tuple[int, str]]] = MappingProxyType(
    {
        # name: (bits per element, numpy type of the raw view; '' where numpy has none)
        "F64": (64, "<f8"),
        "F32": (32, "<f4"),
        "F16": (16, "<f2"),
        "BF16": (16, "<u2"),
        "I64": (64, "<i8"),
        "I32": (32, "<i4"),
        "I16": (16, "<i2"),
        "I8": (8, "i1"),
        "U64": (64, "<u8"),
        "U32": (32, "<u4"),
        "U16": (16, "<u2"),
        "U8": (8, "u1"),
        "BOOL": (8, "u1"),
        "C64": (64, "<c8"),
        "F8_E4M3": (8, "u1"),
        "F8_E5M2": (8, "u1"),
        "F8_E8M0": (8, "u1"),
        "F8_E4M3FNUZ": (8, "u1"),
        "F8_E5M2FNUZ": (8, "u1"),
        "F6_E2M3": (6, ""),
        "F6_E3M2": (6, ""),
        "F4": (4, ""),
    }
)


@dataclass(frozen=True)
class TensorEntry:
    """One line of the header; `begin` and `end` are absolute positions in the file, in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def n_bytes(self) -> int:
        return self.end - self.begin

    @property
    def n_rows(self) -> int:
        """Length of the first axis; a scalar counts as one row."""
        return self.shape[0] if self.shape else 1

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.shape[1:]


@dataclass(frozen=True)
class SafetensorsHeader:
    """What stands before the data.

    Attributes:
        octets: all bytes before the data, the length included.
        metadata: the `__metadata__` strings.
        tensors: entries by name, in the order of their data.
    """

    octets: bytes
    metadata: dict[str, str]
    tensors: dict[str, TensorEntry]


def read_header(file: DirectFile, size: int, path: Path) -> SafetensorsHeader:
    """The checked header of an open file of `size` bytes.

    Raises:
        BadFileError: not a safetensors file, truncated, or a header that does not fit its data.
    """
    start, text = _octets(file, size, path)
    header = _parse_json(text, path)
    metadata = _metadata(header.pop("__metadata__", {}), path)
    octets = start + text
    return SafetensorsHeader(octets, metadata, _entries(header, len(octets), size, path))


def damaged(found: str, path: Path, wanted: str, remedy: str = _AGAIN) -> BadFileError:
    """A file that is not what it should be; the remedy, unless another is given, is a new copy."""
    return BadFileError(found, where=path, wanted=wanted, remedy=remedy)


def _octets(file: DirectFile, size: int, path: Path) -> tuple[bytes, bytes]:
    """The eight bytes of the length, and the JSON bytes."""
    start = bytes(file.read(0, 24))
    if start.startswith(b"version https://git-lfs"):
        raise damaged(
            "a Git LFS pointer instead of the weights",
            path,
            "a safetensors file",
            "run `git lfs pull` in that folder, or download the file itself",
        )
    if start.startswith((b"PK\x03\x04", b"\x80\x02")):
        raise damaged(
            "a PyTorch pickle under a safetensors name",
            path,
            "a safetensors file",
            "save the model again with save_pretrained(..., safe_serialization=True)",
        )
    if size < 10:
        raise damaged(f"a file of {size} bytes", path, "a safetensors file: at least 10 bytes")
    length = int(_LENGTH.unpack_from(start)[0])
    if length > MAX_HEADER:
        raise damaged(
            f"a header of {length} bytes: not a safetensors file, or a damaged one",
            path,
            f"at most {MAX_HEADER} bytes",
        )
    if length > size - 8:
        raise damaged(
            f"a header of {length} bytes announced in a file of {size} bytes", path, "a whole file"
        )
    text = bytes(file.read(8, length))
    if len(text) != length:
        raise damaged("the file was cut while it was read", path, "a whole file")
    return start[:8], text


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for key, value in pairs:
        if key in result:
            raise _DuplicateError(key)
        result[key] = value
    return result


class _DuplicateError(Exception):
    """A JSON object has a key twice; which value counts would depend on the reader."""


def _parse_json(text: bytes, path: Path) -> dict[str, object]:
    # Counted before they become objects, each of which takes fifty times its bytes.
    if text.count(b"{") + text.count(b"[") > 3 * MAX_TENSORS:
        raise damaged("more parts in the header than any model has", path, f"{MAX_TENSORS} tensors")
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except _DuplicateError as error:
        raise damaged(f"the header names '{error}' twice", path, "each name once") from error
    except (ValueError, RecursionError) as error:
        raise damaged("the header is not JSON", path, "a safetensors header") from error
    if not isinstance(header, dict):
        raise damaged("the header is not a JSON object", path, "a safetensors header")
    return header


def _metadata(value: object, path: Path) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise damaged("'__metadata__' is not a table of strings", path, "strings only")
    return value


def _natural(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _entry(name: str, line: object, data_size: int, path: Path) -> TensorEntry:
    """One checked header line, offsets still relative to the data."""
    place = f"{path}: tensor '{name[:MAX_NAME]}'"

    def bad(found: str, wanted: str) -> BadFileError:
        return BadFileError(found, where=place, wanted=wanted, remedy=_AGAIN)

    if len(name) > MAX_NAME or not name.isprintable():
        raise bad(f"a name of {len(name)} characters", f"a printable name of up to {MAX_NAME}")
    if not isinstance(line, dict) or not {"dtype", "shape", "data_offsets"} <= line.keys():
        raise bad("a tensor without dtype, shape or data_offsets", "all three")
    dtype, shape, offsets = line["dtype"], line["shape"], line["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise bad(f"unknown dtype {dtype!r}", "one of " + ", ".join(DTYPES))
    if not isinstance(shape, list) or len(shape) > MAX_DIMS or not all(map(_natural, shape)):
        raise bad("shape is not a short list of sizes", f"at most {MAX_DIMS} integers from 0")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_natural, offsets)):
        raise bad("data_offsets are not a pair of positions", "two integers from 0")
    begin, end = offsets
    if begin > end or end > data_size:
        raise bad(
            f"data from byte {begin} to {end}, but the file holds {data_size} bytes of data: "
            "it is truncated or its header lies",
            "offsets inside the file",
        )
    bits = DTYPES[dtype][0] * prod(shape)
    if bits != 8 * (end - begin):
        raise bad(
            f"{end - begin} bytes for shape {shape} of {dtype}",
            "shape and dtype that make up the bytes",
        )
    return TensorEntry(name, dtype, tuple(shape), begin, end)


def _entries(
    header: dict[str, object], data_begin: int, size: int, path: Path
) -> dict[str, TensorEntry]:
    """All entries in the order of their data, which they must cover exactly."""
    data_size = size - data_begin
    found = [_entry(name, line, data_size, path) for name, line in header.items()]
    found.sort(key=lambda e: (e.begin, e.end))
    at = 0
    result = {}
    for e in found:
        if e.begin != at:
            what = "overlaps the one before" if e.begin < at else "leaves a hole before it"
            raise damaged(
                f"the data of tensor '{e.name}' {what}", path, "data without overlap or hole"
            )
        at = e.end
        result[e.name] = TensorEntry(
            e.name, e.dtype, e.shape, e.begin + data_begin, e.end + data_begin
        )
    if at != data_size:
        raise damaged(
            f"{data_size - at} bytes after the last tensor", path, "data that the header describes"
        )
    return result
