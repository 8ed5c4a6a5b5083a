"""JSON from disk, where anybody may have written it: bounded, and with one kind of error."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, Final

from pedsup.errors import BadFileError

_REMEDY: Final = "the file is damaged: copy it again"


def parse_json(data: bytes | str) -> Any:
    """The value of a JSON text whose texts are all encodable.

    Raises:
        ValueError: no UTF-8, no JSON, nested too deep, or half of a surrogate pair in a text.
    """
    # A byte order mark, as Windows programs write it, is not part of the text.
    text = data.decode("utf-8-sig") if isinstance(data, bytes) else data.removeprefix("\ufeff")
    try:
        value = json.loads(text)
        if "\\u" in text:
            # Python accepts "\ud800", and every later encode() would fail.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    return value


def read_bounded(path: Path, what: str, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes.

    Raises:
        BadFileError: it is missing, no regular file, too large, or cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise BadFileError(f"{what} is no regular file", where=path, remedy=_REMEDY)
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise BadFileError(
            f"{what} cannot be read: {reason}", where=path, remedy="check the path and its mode"
        ) from error
    if len(data) > limit:
        raise BadFileError(
            f"{what} is larger than {limit} bytes", where=path, wanted="less", remedy=_REMEDY
        )
    return data


def read_json_object(path: Path, what: str, limit: int, *, remedy: str = _REMEDY) -> dict[str, Any]:
    """A JSON object from a regular file of at most `limit` bytes.

    Raises:
        BadFileError: missing, too large, not JSON, or no object; with `remedy`.
    """
    data = read_bounded(path, what, limit)
    try:
        value = parse_json(data)
    except ValueError as error:
        raise BadFileError(f"{what} is not JSON: {error}", where=path, remedy=remedy) from error
    if not isinstance(value, dict):
        raise BadFileError(f"{what} is no JSON object", where=path, remedy=remedy)
    return value
