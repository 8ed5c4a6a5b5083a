"""Where a record comes from: its bytes, its parsed TOML or JSON, and the wording of errors."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path

from pedsup.errors import BadFileError, PedsupError
from pedsup.files.json_file import decode_text, loaded, parse_json, read_bounded
from pedsup.files.toml_lines import line_of
from pedsup.messages import message, reason_of


@dataclass(frozen=True)
class Source:
    """Where a record comes from, and how its errors are worded."""

    what: str
    """What a message calls it: 'the settings file'."""
    where: object
    """The file, as shown to people."""
    error: type[PedsupError] = BadFileError
    remedy: str | None = None
    only_known: bool = True
    """An unknown key is an error; otherwise it is ignored, as in files that another
    version may have written."""
    text: str | None = None
    """The TOML text, to find the line of an error."""

    def problem(
        self, found: str, *, key: str = "", wanted: str | list[str] | None = None
    ) -> PedsupError:
        line = line_of(self.text, key) if self.text is not None and key else None
        where = (
            self.where
            if line is None
            else message("{path}, line {number}", path=self.where, number=line)
        )
        return self.error(found, where=where, wanted=wanted, remedy=self.remedy)


def read_bytes(path: Path, source: Source, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes.

    Raises:
        PedsupError: `source.error`; missing, too large, or unreadable.
    """
    try:
        return read_bounded(path, source.what, limit)
    except BadFileError as error:
        raise source.error(error.found, where=source.where, remedy=error.remedy) from error


def parse_toml(data: bytes | str, source: Source) -> tuple[dict[str, object], Source]:
    """The table of a TOML text, and the source with it. A byte order mark is passed over.

    Raises:
        PedsupError: `source.error`; not UTF-8, not TOML, or nested too deep.
    """
    try:
        text = decode_text(data) if isinstance(data, bytes) else data
        table = _parsed(text)
    except ValueError as error:
        raise source.problem(
            message(
                "{what} is not valid TOML: {reason}", what=source.what, reason=reason_of(error)
            ),
            wanted=message("lines like: name = 0.7"),
        ) from error
    return table, dataclasses.replace(source, text=text)


def _parsed(text: str) -> dict[str, object]:
    """The table of a TOML text.

    Raises:
        ValueError: not TOML, nested too deep, or a number that no program can be relied on to take.
    """
    table: dict[str, object] = loaded(tomllib.loads, text, tomllib.TOMLDecodeError)
    _require_64_bits(table)
    return table


def _require_64_bits(value: object) -> None:
    """TOML's whole numbers have 64 bits; Python takes any, and cannot even print large ones."""
    if isinstance(value, int) and not -1 << 63 <= value < 1 << 63:
        raise ValueError("a whole number that is too large")
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            _require_64_bits(part)


def read_json(path: Path, source: Source, limit: int) -> object:
    """The value of a JSON file of at most `limit` bytes.

    Raises:
        PedsupError: `source.error`; missing, too large, or not JSON.
    """
    return parsed_json(read_bytes(path, source, limit), source)


def parsed_json(data: bytes, source: Source) -> object:
    """The value of a JSON text.

    Raises:
        PedsupError: `source.error`; not JSON, or nested too deep.
    """
    try:
        return parse_json(data)
    except ValueError as error:
        raise source.problem(
            message("{what} is not JSON: {reason}", what=source.what, reason=reason_of(error))
        ) from error
