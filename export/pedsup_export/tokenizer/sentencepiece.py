"""tokenizer.model, SentencePiece's own file: pieces, scores and types, read without its library.

The file is a protocol buffer (`ModelProto` of sentencepiece_model.proto): repeated field 1 holds
the pieces, each a message of text (1), score as float32 (2) and type (3). Other fields are passed
over. The tests compare with the sentencepiece library.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pedsup.errors import BadFileError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Numbers that llama.cpp has too."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_PIECES: Final = 1
_TEXT, _SCORE, _TYPE = 1, 2, 3
MAX_PIECES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """One token: its text, its score (the highest is merged first) and its type."""

    text: str
    score: float = 0.0
    kind: int = NORMAL


def read_pieces(data: bytes, where: object) -> list[Piece]:
    """The pieces of a tokenizer.model, in the order of their ids.

    Raises:
        BadFileError: not a SentencePiece model, or a damaged one.
    """
    try:
        pieces: list[Piece] = []
        for number, value in _fields(data):
            if number == _PIECES:
                if len(pieces) == MAX_PIECES:
                    raise ValueError(f"more than {MAX_PIECES} pieces")
                pieces.append(_piece(value))
    except (ValueError, IndexError, struct.error) as error:
        raise _damaged(f"it cannot be read: {error}", where) from error
    if not pieces:
        raise _damaged("it holds no pieces", where)
    return pieces


def _damaged(found: str, where: object) -> BadFileError:
    return BadFileError(
        found,
        where=where,
        wanted="a SentencePiece model",
        remedy="copy tokenizer.model of the base model again",
    )


def _piece(value: bytes | int) -> Piece:
    text, score, kind = "", 0.0, NORMAL
    if isinstance(value, int):
        raise ValueError("a piece is not a message")
    for number, part in _fields(value):
        if number == _TEXT and isinstance(part, bytes):
            text = part.decode("utf-8")
        elif number == _SCORE and isinstance(part, bytes) and len(part) == 4:
            (score,) = struct.unpack("<f", part)
        elif number == _TYPE and isinstance(part, int):
            kind = part
    if not NORMAL <= kind <= BYTE:
        raise ValueError(f"a piece of type {kind}")
    return Piece(text, score, kind)


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Field numbers and values of a message; numbers of fixed width as their bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire}")
        if size > len(data) - at:
            raise ValueError("it ends within a field")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")
