"""Rows of a data file (JSON lines, JSON, CSV), each with its place; shared by training and bench.

A byte order mark, which Windows programs write, is not part of the text; CRLF ends a line like LF.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pedsup.errors import BadFileError
from pedsup.files.json_file import parse_json

BOM: Final = b"\xef\xbb\xbf"
MAX_LINE: Final = 16 << 20
"""Bytes of one JSON line."""
NumberedRow = tuple[int, dict[str, object] | str]
"""(number, fields), or (number, why it is not a row). Lines count from 1, JSON's items from 0."""


def read_table(path: Path) -> Iterator[NumberedRow]:
    """The rows of a `.json` list, a `.csv` with a header, or else of JSON lines.

    Raises:
        BadFileError: the file as a whole is not what its name says.
    """
    readers = {".json": _json, ".csv": _csv}
    return readers.get(path.suffix.lower(), _json_lines)(path)


def _json_lines(path: Path) -> Iterator[NumberedRow]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE and not line.endswith(b"\n"):
                while not line.endswith(b"\n") and (line := file.readline(MAX_LINE)):
                    pass
                yield number, f"longer than {MAX_LINE} bytes"
                continue
            raw = line.removeprefix(BOM) if number == 1 else line
            if raw.strip():
                yield number, _json_row(raw)


def _json_row(raw: bytes) -> dict[str, object] | str:
    try:
        return _mapping(parse_json(raw))
    except UnicodeDecodeError:
        return "not UTF-8"
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg}"
    except ValueError as error:
        return f"not JSON: {error}"


def _json(path: Path) -> Iterator[NumberedRow]:
    try:
        values = parse_json(path.read_bytes())
    except ValueError as error:
        raise BadFileError(f"not JSON: {error}", where=path) from error
    if not isinstance(values, list):
        raise BadFileError("not a list of rows", where=path, wanted="[{...}, ...] or a .jsonl file")
    for number, value in enumerate(values):
        yield number, _mapping(value)


def _csv(path: Path) -> Iterator[NumberedRow]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            for row in reader:
                whole = None not in row and None not in row.values()
                reason = "another number of fields than the header"
                yield reader.line_num, dict(row) if whole else reason
        except (csv.Error, UnicodeDecodeError) as error:
            raise BadFileError(f"not CSV in UTF-8: {error}", where=path) from error


def _mapping(value: object) -> dict[str, object] | str:
    return value if isinstance(value, dict) else "not an object with named fields"
