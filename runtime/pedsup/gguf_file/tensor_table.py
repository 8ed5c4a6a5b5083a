"""Read and check the tensor table of a GGUF header, and where the tensors are in the file."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from typing import Final

from pedsup.errors import BadFileError
from pedsup.gguf_file.cursor import AGAIN, Cursor
from pedsup.gguf_file.ggml_types import GGML_TYPES, GGMLType
from pedsup.gguf_file.limits import MAX_DIMS, MAX_NAME, MAX_SIGNED
from pedsup.messages import message

_DIMS: Final = tuple(struct.Struct(f"<{n}Q") for n in range(MAX_DIMS + 1))


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


def read_table(cursor: Cursor, count: int) -> dict[str, TensorInfo]:
    """Read `count` rows. Raises `BadFileError` for a name twice, or an impossible row."""
    tensors: dict[str, TensorInfo] = {}
    for number in range(count):
        start = cursor.at
        name = cursor.text(
            MAX_NAME, message("the name of tensor {n} of {m}", n=number + 1, m=count)
        )
        if not name:
            raise cursor.bad(
                message("tensor {n} of {m} has no name", n=number + 1, m=count), "a name", at=start
            )
        if name in tensors:
            raise cursor.bad(
                message("the tensor '{name}' appears twice", name=name),
                "each tensor once",
                at=start,
            )
        tensors[name] = _read_row(cursor, name)
    return tensors


def _read_row(cursor: Cursor, name: str) -> TensorInfo:
    start = cursor.at
    n_dims = cursor.u32()
    if not 1 <= n_dims <= MAX_DIMS:
        raise cursor.bad(
            message("tensor '{name}' has {n} dimensions", name=name, n=n_dims),
            message("1 to {n}", n=MAX_DIMS),
            at=start,
        )
    at = cursor.skip(8 * n_dims)
    shape: tuple[int, ...] = _DIMS[n_dims].unpack_from(cursor.data, at)
    type_at = cursor.at
    number = cursor.u32()
    kind = GGML_TYPES.get(number)
    if kind is None:
        raise cursor.bad(
            message("tensor '{name}' has the type number {n}", name=name, n=number),
            "a tensor type that this version knows",
            at=type_at,
        )
    tensor = TensorInfo(name, shape, kind, cursor.u64())
    _require_possible(cursor, tensor, at)
    return tensor


def _require_possible(cursor: Cursor, tensor: TensorInfo, at: int) -> None:
    """Raise `BadFileError` if the dimensions, which are at byte `at`, are impossible."""
    shape, kind = tensor.shape, tensor.type
    # Python's integers do not overflow, so the products themselves are the test.
    if not all(shape) or prod(shape) > MAX_SIGNED or shape[0] % kind.block_size:
        raise cursor.bad(
            message(
                "tensor '{name}' of type {type} has the dimensions {shape}",
                name=tensor.name,
                type=kind.name,
                shape=list(shape),
            ),
            message(
                "dimensions from 1, rows a multiple of {n}, fewer than 2^63 elements",
                n=kind.block_size,
            ),
            at=at,
        )
    if tensor.n_bytes > MAX_SIGNED:
        raise cursor.bad(
            message(
                "tensor '{name}' of type {type} with the dimensions {shape} has {n} bytes",
                name=tensor.name,
                type=kind.name,
                shape=list(shape),
                n=tensor.n_bytes,
            ),
            "fewer than 2^63 bytes",
            at=at,
        )


def check_layout(cursor: Cursor, tensors: dict[str, TensorInfo], alignment: int) -> int:
    """Check that tensor data fills the rest of the file, in the order of the table.

    llama.cpp requires that order, so nothing overlaps and no gap is left. The padding after
    the last tensor may be missing.

    Returns:
        The byte where tensor data starts.

    Raises:
        BadFileError: it does not, or the file is longer or shorter than the table says.
    """
    data = -(-cursor.at // alignment) * alignment
    end = padded = 0
    for tensor in tensors.values():
        if tensor.offset != padded:
            raise _misplaced(cursor, tensor, padded, alignment)
        end = padded + tensor.n_bytes
        if data + end > cursor.size:
            raise BadFileError(
                message("the file ends inside or before tensor '{name}'", name=tensor.name),
                where=message("{path}: {n} bytes", path=cursor.path, n=cursor.size),
                wanted=message("at least {n} bytes", n=data + end),
                remedy="the copy is truncated: copy it again and compare its SHA-256",
            )
        padded = -(-end // alignment) * alignment
    if cursor.size > data + padded:
        raise BadFileError(
            message("{n} bytes after the last tensor", n=cursor.size - data - end),
            where=message("{place}, byte {n}", place=cursor.path, n=data + end),
            wanted=message("a file of {n} bytes, as the tensor table says", n=data + padded),
            remedy=AGAIN,
        )
    return data


def _misplaced(cursor: Cursor, tensor: TensorInfo, wanted: int, alignment: int) -> BadFileError:
    if tensor.offset % alignment:
        what = message(
            "starts at {n}, which is not a multiple of the alignment {m}",
            n=tensor.offset,
            m=alignment,
        )
    elif tensor.offset < wanted:
        what = message("overlaps the one before it")
    elif tensor.offset > cursor.size:
        what = message("lies outside the file")
    else:
        what = message("leaves a hole before it")
    return BadFileError(
        message("the data of tensor '{name}' {problem}", name=tensor.name, problem=what),
        where=message("{path}, tensor data offset {n}", path=cursor.path, n=tensor.offset),
        wanted=message("offset {n}", n=wanted),
        remedy=AGAIN,
    )
