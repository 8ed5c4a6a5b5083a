"""Finds the line of a key in a TOML text; Python's parser does not tell."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from typing import Final

_HEADER: Final = re.compile(r"\s*(\[\[?)\s*([^\[\]#]+?)\s*\]\]?\s*(?:#.*)?")
_NAME: Final = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_KEY: Final = re.compile(rf"\s*({_NAME}(?:\s*\.\s*{_NAME})*)\s*=")
_PART: Final = re.compile(_NAME)


def line_of(text: str, key: str) -> int | None:
    """The line, from 1, of a key such as 'data.sources[1].path', or of the header of its table.

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
