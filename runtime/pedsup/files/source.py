"""Where a record comes from: its bytes, its parsed TOML or JSON, and the wording of errors."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pedsup.errors import BadFileError, PedsupError
from pedsup.files.json_file import DAMAGED, decode_text, loaded, parse_json, read_bounded
from pedsup.messages import as_message, message, reason_of

# Parts of TOML, to find the line of a key: Python's parser does not tell.
_HEADER: Final = re.compile(r"\s*(\[\[?)\s*([^\[\]#]+?)\s*\]\]?\s*(?:#.*)?")
_NAME: Final = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_KEY: Final = re.compile(rf"\s*({_NAME}(?:\s*\.\s*{_NAME})*)\s*=")
_PART: Final = re.compile(_NAME)


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
        raise source.error(
            error.found, where=source.where, wanted=error.wanted, remedy=error.remedy
        ) from error


def parse_toml(data: bytes | str, source: Source) -> tuple[dict[str, object], Source]:
    """The table of a TOML text, and the source with it. A byte order mark is passed over.

    Raises:
        PedsupError: `source.error`; not UTF-8, not TOML, nested too deep, or a number that no
            program can be relied on to take.
    """
    try:
        text = decode_text(data) if isinstance(data, bytes) else data
        table: dict[str, object] = loaded(tomllib.loads, text, tomllib.TOMLDecodeError)
        _require_64_bits(table)
    except ValueError as error:
        raise source.problem(
            message(
                "{what} is not valid TOML: {reason}",
                what=as_message(source.what),
                reason=reason_of(error),
            ),
            wanted=message("lines like: name = 0.7"),
        ) from error
    return table, dataclasses.replace(source, text=text)


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


def read_json_object(
    path: Path, what: str, limit: int, *, remedy: str = DAMAGED
) -> dict[str, object]:
    """A JSON object. Raises as `read_json`, `BadFileError` with `remedy`, or if it is no object."""
    source = Source(what, path, remedy=remedy)
    value = read_json(path, source, limit)
    if not isinstance(value, dict):
        raise source.problem(message("{what} is not a JSON object", what=as_message(what)))
    return value


def parsed_json(data: bytes, source: Source) -> object:
    """The value of a JSON text.

    Raises:
        PedsupError: `source.error`; not JSON, or nested too deep.
    """
    try:
        return parse_json(data)
    except ValueError as error:
        raise source.problem(
            message(
                "{what} is not JSON: {reason}",
                what=as_message(source.what),
                reason=reason_of(error),
            )
        ) from error


def line_of(text: str, key: str) -> int | None:
    """The line, from 1, of a key such as 'data.sources[1].path' in TOML, or of its table's header.

    None where it cannot be told, as for a key of an inline table of several lines.
    """
    lines = text.splitlines()
    table, best, lists = "", None, Counter[str]()
    for number, line in enumerate(lines, 1):
        if header := _HEADER.fullmatch(line):
            found = _joined(header[2])
            if header[1] == "[[":
                found = f"{found}[{lists[found]}]"
                lists[found.rpartition("[")[0]] += 1
            table = _placed(found, lists)
        elif assignment := _KEY.match(line):
            found = ".".join(filter(None, (table, _joined(assignment[1]))))
        else:
            continue
        # The nearest that is there: of a key in an inline table, the key that holds it.
        if _holds(found, key) and (best is None or len(found) > len(best[0])):
            best = (found, number)
    if best is None or not _is_statement(lines[: best[1] - 1]):
        return None
    return best[1]


def _joined(dotted: str) -> str:
    return ".".join(part.strip("\"'") for part in _PART.findall(dotted))


def _placed(table: str, lists: Counter[str]) -> str:
    """`a.b.c` as `a.b[1].c` where `[[a.b]]` stood twice before."""
    for name, count in lists.items():
        if table.startswith(name + "."):
            return f"{name}[{count - 1}]{table.removeprefix(name)}"
    return table


def _holds(found: str, key: str) -> bool:
    return key == found or key.startswith((found + ".", found + "["))


def _is_statement(before: list[str]) -> bool:
    """Whether a statement can begin here, and not the middle of a text of several lines."""
    try:
        tomllib.loads("\n".join(before))
    except ValueError:
        return False
    return True
