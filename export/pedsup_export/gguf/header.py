"""Serialize a GGUF header: metadata and tensor table, with the position of every tensor fixed.

The reader is `pedsup.gguf_file`; the format is described there. The header is made whole in
memory (tens of megabytes at most: a vocabulary) before the first byte of the file is written,
so that its size, and with it every offset, is known and never changes.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from pedsup.gguf_file import GGMLType, ValueType
from pedsup.gguf_file.header import MAGIC
from pedsup.gguf_file.limits import DEFAULT_ALIGNMENT, MAX_NAME
from pedsup.gguf_file.values import SCALARS


@dataclass(frozen=True)
class KV:
    """One metadata entry; `element` is set for arrays and then `value` is a sequence."""

    key: str
    type: ValueType
    value: Any
    element: ValueType | None = None


def u32(key: str, value: int) -> KV:
    """An unsigned 32-bit entry, the type llama.cpp expects for counts and ids."""
    return KV(key, ValueType.UINT32, int(value))


def f32(key: str, value: float) -> KV:
    """A 32-bit float entry."""
    return KV(key, ValueType.FLOAT32, float(value))


def boolean(key: str, value: bool) -> KV:
    """A truth value."""
    return KV(key, ValueType.BOOL, bool(value))


def string(key: str, value: str | bytes) -> KV:
    """A UTF-8 string entry."""
    return KV(key, ValueType.STRING, value)


def array(key: str, element: ValueType, values: Sequence[Any]) -> KV:
    """An array entry of one element type."""
    return KV(key, ValueType.ARRAY, values, element)


@dataclass(frozen=True)
class TensorSlot:
    """A tensor's place in the output. `shape` is in ggml's order: the row length first."""

    name: str
    shape: tuple[int, ...]
    type: GGMLType
    offset: int
    n_bytes: int


def lay_out(tensors: Iterable[tuple[str, tuple[int, ...], GGMLType]]) -> list[TensorSlot]:
    """Give each (name, ggml shape, type) its aligned offset, in the order given."""
    slots, offset = [], 0
    for name, shape, kind in tensors:
        n_bytes = kind.row_bytes(shape[0]) * prod(shape[1:])
        slots.append(TensorSlot(name, shape, kind, offset, n_bytes))
        offset += padded(n_bytes)
    return slots


def mixture(slots: Iterable[TensorSlot]) -> dict[str, dict[str, int]]:
    """Type name -> how many tensors and bytes, the commonest first."""
    tensors, n_bytes = Counter[str](), Counter[str]()
    for slot in slots:
        tensors[slot.type.name] += 1
        n_bytes[slot.type.name] += slot.n_bytes
    return {t: {"tensors": n, "bytes": n_bytes[t]} for t, n in tensors.most_common()}


def padded(n: int) -> int:
    """`n` rounded up to the alignment."""
    return -(-n // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT


def header_bytes(metadata: Sequence[KV], slots: Sequence[TensorSlot]) -> bytes:
    """The whole header, padded to the alignment; tensor data starts right after it."""
    out = bytearray(MAGIC)
    out += struct.pack("<IQQ", 3, len(slots), len(metadata))
    for entry in metadata:
        out += _string(entry.key) + struct.pack("<I", entry.type)
        out += _value(entry)
    for slot in slots:
        if len(slot.name.encode()) > MAX_NAME:
            raise ValueError(f"tensor name longer than {MAX_NAME} bytes: {slot.name}")
        out += _string(slot.name) + struct.pack("<I", len(slot.shape))
        out += struct.pack(f"<{len(slot.shape)}Q", *slot.shape)
        out += struct.pack("<IQ", slot.type.number, slot.offset)
    out += b"\0" * (padded(len(out)) - len(out))
    return bytes(out)


def _string(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _value(entry: KV) -> bytes:
    if entry.type is ValueType.STRING:
        return _string(entry.value)
    if entry.type is not ValueType.ARRAY:
        return SCALARS[entry.type].pack(entry.value)
    if entry.element is None:
        raise ValueError(f"array without an element type: {entry.key}")
    head = struct.pack("<IQ", entry.element, len(entry.value))
    if entry.element is ValueType.STRING:
        return head + b"".join(map(_string, entry.value))
    return head + packed_numbers(entry.element, entry.value)


def packed_numbers(element: ValueType, values: Sequence[Any]) -> bytes:
    """The bytes of an array's numbers."""
    return struct.pack(f"<{len(values)}{SCALARS[element].format[1:]}", *values)
