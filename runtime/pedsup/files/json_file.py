"""JSON from disk, where anybody may have written it: bounded, and with one kind of error."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from pedsup.errors import BadFileError
from pedsup.messages import as_message, message, reason_of

DAMAGED: Final = message("the file is damaged: copy it again")
NO_FILE: Final = message("give the path of a file, not of a folder, a pipe or a device")
"""What to do where a path leads to something that is not a regular file."""
_BOM: Final = "\ufeff"
_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")
MAX_DEPTH: Final = 128
"""Levels of lists and tables. No file of ours has twenty, and whoever goes through the value later
must not run out of Python's stack."""


def decode_text(data: bytes) -> str:
    """UTF-8 with or without a byte order mark, which programs on Windows write.

    Raises:
        ValueError: the bytes are not UTF-8.
    """
    if data.startswith(_UTF_16):
        raise ValueError("the text is UTF-16: save it as UTF-8")
    return data.decode("utf-8").removeprefix(_BOM)


def parse_json(data: bytes | str, *, constant: Callable[[str], object] | None = None) -> Any:
    """The value of a JSON text whose texts are all encodable. A byte order mark is passed over.

    Args:
        constant: what to make of NaN and Infinity; None: the numbers.

    Raises:
        ValueError: not UTF-8, not JSON, nested too deep, or half of a surrogate pair in a text.
    """
    text = decode_text(data) if isinstance(data, bytes) else data.removeprefix(_BOM)
    value = loaded(partial(json.loads, parse_constant=constant), text, json.JSONDecodeError)
    if "\\u" in text:
        # Python accepts "\ud800", and every later encode() would fail.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def loaded(load: Callable[[str], Any], text: str, refused: type[ValueError]) -> Any:
    """What a parser of the standard library makes of a text, in our words where it fails.

    Args:
        load: `json.loads` or `tomllib.loads`.
        refused: what `load` raises for a text of another format, in words for people.

    Raises:
        ValueError: another format, nested too deep, or a number of thousands of digits.
    """
    try:
        value = load(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except refused:
        raise
    except ValueError as error:
        if "digits" not in str(error):  # of a caller's own, as for NaN
            raise
        # Thousands of them: Python's advice is for programmers.
        raise ValueError("a whole number that is too large") from error
    require_shallow(value)
    return value


def require_shallow(value: object) -> None:
    """Raise ValueError for a value of more than `MAX_DEPTH` levels of lists and tables."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner = [part for node in level for part in _parts(node)]
        level = [part for part in inner if isinstance(part, dict | list)]
        if not level:
            return
    raise ValueError("nested too deeply")


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def tables(value: object) -> Iterator[dict[str, Any]]:
    """Every table (a JSON object) in a value, itself included."""
    todo = [value]
    while todo:
        at = todo.pop()
        if isinstance(at, dict):
            yield at
        todo += _parts(at)


def read_first(path: Path, what: str, n: int) -> bytes:
    """The first `n` bytes of a regular file, or all of a shorter one.

    Raises:
        BadFileError: it is missing, is not a regular file, or cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)  # `fdopen` takes no folder
            raise BadFileError(
                message("{what} is not a regular file", what=as_message(what)),
                where=path,
                remedy=NO_FILE,
            )
        with os.fdopen(fd, "rb") as file:
            return file.read(n)
    except (OSError, ValueError) as error:
        raise BadFileError(
            message(
                "{what} cannot be read: {reason}", what=as_message(what), reason=reason_of(error)
            ),
            where=path,
            remedy="check the path and its permissions",
        ) from error


def read_bounded(path: Path, what: str, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes.

    Raises:
        BadFileError: it is missing, not a regular file, too large, or cannot be read.
    """
    data = read_first(path, what, limit + 1)
    if len(data) > limit:
        raise BadFileError(
            message("{what} is larger than {n} bytes", what=as_message(what), n=limit),
            where=path,
            wanted="a smaller file",
            remedy=DAMAGED,
        )
    return data
