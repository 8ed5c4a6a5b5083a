"""What a stream can show: its width, and whether it supports colour and bold."""

from __future__ import annotations

import os
import re
import textwrap
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TextIO

Style = Literal["prompt", "title", "reasoning", "guard", "warning", "error"]
"""Weight goes with each colour, so that they are told apart without seeing colours too."""

_CODES: Final[dict[Style, str]] = {
    "prompt": "\x1b[1;36m",
    "title": "\x1b[1m",
    "reasoning": "\x1b[2m",
    "guard": "\x1b[1;31m",
    "warning": "\x1b[33m",
    "error": "\x1b[1;31m",
}
PLAIN: Final = "\x1b[0m"
FALLBACK: Final = 80
"""Columns assumed for a terminal that does not tell its width."""
LEAST: Final = 20
"""Below this many columns words are not wrapped: most would not fit."""
ITEM, ITEM_INDENT = "- ", "  "
_ITEM_GOES_ON: Final = re.compile(r"^(- .*)\n {2}(?=\S)", re.MULTILINE)
_FILLER: Final = "\ufdd0"
"""Not a character (Unicode reserves it): stands for the second cell of a wide one."""
_PARTS: Final = re.compile(r"\n|[^\S\n]+|\S+")


@dataclass(frozen=True)
class Screen:
    """A stream as its reader sees it."""

    stream: TextIO
    terminal: bool
    """Whether it is a terminal, of any kind."""
    cursor: bool
    """Whether a line can be cleared and written again."""
    colour: bool

    def width(self) -> int | None:
        """The current number of columns (a phone may be turned); None if lines are unlimited."""
        return _width(self.stream) if self.terminal else None

    def begin(self, style: Style) -> str:
        """The code that switches a style on; empty if styles are not supported."""
        return _CODES[style] if self.colour else ""

    def end(self) -> str:
        """The code that switches every style off."""
        return PLAIN if self.colour else ""

    def styled(self, text: str, style: Style) -> str:
        return f"{self.begin(style)}{text}{self.end()}"

    def wrapped(self, text: str, indent: str = "") -> str:
        """A text, its lines no longer than the screen is wide."""
        return wrapped(text, self.width(), indent)


def screen_of(stream: TextIO) -> Screen:
    """What a stream can show. NO_COLOR (no-color.org) and TERM=dumb are respected."""
    terminal = stream.isatty()
    cursor = terminal and os.environ.get("TERM", "") not in ("", "dumb")
    return Screen(stream, terminal, cursor, cursor and not os.environ.get("NO_COLOR"))


def wrapped(text: str, width: int | None, indent: str = "") -> str:
    """Each line of a text broken between words; `indent` begins what follows a break.

    A word that is too long (a path, an address) stays whole, so that it can be copied. An item of
    a list ("- ...") is broken as a whole, and what follows a break is indented below its words.
    """
    if width is None or width < LEAST or all(columns(line) <= width for line in text.split("\n")):
        return text
    return "\n".join(
        line
        if columns(line) <= width
        else textwrap.fill(
            "".join(c + _FILLER * (columns(c) - 1) for c in line),  # textwrap counts characters
            width,
            subsequent_indent=indent + ITEM_INDENT * line.startswith(ITEM),
            break_long_words=False,
            break_on_hyphens=False,
            replace_whitespace=False,
        ).replace(_FILLER, "")
        for line in _ITEM_GOES_ON.sub(r"\1 ", text).split("\n")
    )


class Wrapper:
    """Breaks text that comes in pieces between words: a word is shown when it has ended."""

    def __init__(self, width: Callable[[], int | None]) -> None:
        self._width = width
        self._column, self._gap, self._word = 0, "", ""

    def feed(self, piece: str) -> str:
        """What can be written now."""
        if (width := self._width()) is None or width < LEAST:
            return self.flush() + piece
        shown = []
        for part in _PARTS.findall(piece):
            if not part.isspace():
                self._word += part
                if columns(self._word) >= width:  # writing without spaces, or an address
                    shown.append(self._place(width))
                continue
            shown.append(self._place(width))
            if part == "\n":
                shown.append("\n")
                self._column, self._gap = 0, ""
            else:
                self._gap += part
        return "".join(shown)

    def flush(self) -> str:
        """The word that was held back."""
        return self._place(self._width())

    def restart(self) -> None:
        """What follows begins on a fresh line."""
        self._column, self._gap, self._word = 0, "", ""

    def _place(self, width: int | None) -> str:
        if not self._word:
            return ""
        before, word = self._gap, self._word
        self._gap = self._word = ""
        size = columns(word)
        if width and self._column and self._column + columns(before) + size > width:
            before, self._column = "\n", 0
        else:
            self._column += columns(before)
        self._column += size
        if width and self._column > width:
            self._column = self._column % width or width
        return before + word


def columns(text: str) -> int:
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) != 0 for c in text)


def _width(stream: TextIO) -> int:
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal() and int(told):
        return int(told)
    try:
        return os.get_terminal_size(stream.fileno()).columns or FALLBACK
    except (OSError, ValueError):
        return FALLBACK
