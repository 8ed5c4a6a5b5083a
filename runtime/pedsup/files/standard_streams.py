"""Standard input and output as they are found: closed, broken, or in another encoding than UTF-8.

What a command has to say is never lost to a character that a terminal cannot show, and progress
that nobody can read never ends the work.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import Final, TextIO

from pedsup.errors import OutputError, UsageError
from pedsup.messages import message

HANDLER: Final = "pedsup-readable"
# A '?' in the place of these would change what an answer says: "≥ 38 °C", "µg", "→".
_SPELLED: Final = {
    "≥": ">=", "≤": "<=", "≠": "!=", "≈": "~", "±": "+/-", "×": "x", "÷": "/", "−": "-",
    "→": "->", "←": "<-", "↑": "^", "↓": "v", "⇒": "=>", "µ": "u", "μ": "u", "°": "deg ",
    "–": "-", "—": "-", "‐": "-", "‑": "-", "•": "*", "·": "*", "…": "...", "€": "EUR",
    "‘": "'", "’": "'", "‚": "'", "“": "'", "”": "'", "„": "'", "«": "<<", "»": ">>",
    "¿": "?", "¡": "!", "ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "∞": "inf", "√": "sqrt",
    "½": "1/2", "¼": "1/4", "¾": "3/4", "\u2028": " ", "\u2029": " ", "\u200b": "",
    "\ufe0f": "", "\u200d": "",
}  # fmt: skip
"""Never a double quote or a backslash: they would break JSON."""


class _Streams:
    """What was found at the start of this process."""

    stdout_closed = False


def prepare() -> None:
    """Make the three streams usable, whatever they are; safe to call again."""
    # Else the next file opened would be number 1, and be written to by mistake.
    closed = [fd for fd in (0, 1, 2) if not _is_open(fd)]
    for fd in closed:
        os.open(os.devnull, os.O_RDONLY if fd == 0 else os.O_WRONLY)
        os.set_inheritable(fd, True)  # a child process needs the three numbers as well
    _Streams.stdout_closed |= sys.stdout is None or 1 in closed
    null = Path(os.devnull)
    sys.stdin = sys.stdin or null.open(encoding="utf-8")
    sys.stdout = sys.stdout or null.open("w", encoding="utf-8")
    codecs.register_error(HANDLER, _readable)
    if isinstance(sys.stdin, io.TextIOWrapper):
        # A byte that is not text is kept as half a surrogate, for `require_text` to find.
        sys.stdin.reconfigure(errors="surrogateescape")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=HANDLER)
    if sys.stderr is None or type(sys.stderr) is io.TextIOWrapper:
        sys.stderr = _Progress.on(2, sys.stderr)


def require_stdout() -> None:
    """Raise `OutputError` if there is nowhere to write the result."""
    if _Streams.stdout_closed:
        raise OutputError(
            "standard output is closed: there is nowhere to write the answer",
            remedy="send it to a file (> answer.txt), or to /dev/null to throw it away",
        )


def finish() -> None:
    """Write out what is buffered for standard output. Raises `OSError` (a full disk, no reader)."""
    with suppress(ValueError):  # closed by somebody
        sys.stdout.flush()


def abandon_stdout() -> None:
    """Write out what can be written, and let the rest go: the interpreter flushes at its end."""
    try:
        finish()
    except OSError:
        with suppress(OSError, ValueError):
            _discard(sys.stdout.fileno())


def separate_native_stderr() -> None:
    """Leave file number 2, where llama.cpp itself prints, without a reader; ours is another.

    llama.cpp prints a grammar that it cannot parse, in which what was asked stands, past its own
    log. What pedsup says on standard error still comes.
    """
    if not isinstance(sys.stderr, _Progress) or sys.stderr.fileno() != 2:
        return
    sys.stderr.flush()
    sys.stderr = _Progress.on(os.dup(2), sys.stderr)
    _discard(2)


def read_all() -> str:
    """The whole of standard input as text.

    UTF-8 is taken wherever it is valid (a text in another encoding hardly ever is), UTF-16 with
    its mark, and else the encoding of the locale.

    Raises:
        UsageError: it is in another encoding.
    """
    if not isinstance(sys.stdin, io.TextIOWrapper):
        return str(sys.stdin.read())
    encoding = sys.stdin.encoding
    raw: bytes = sys.stdin.buffer.read()
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encodings = ["utf-16"]
    else:
        encodings = ["utf-8-sig", encoding]
    for name in encodings:
        with suppress(UnicodeDecodeError):
            # Lines end in CRLF where the text comes from Windows.
            return raw.decode(name).replace("\r\n", "\n")
    raise UsageError(
        "standard input is not UTF-8 text",
        wanted="UTF-8 text"
        if codecs.lookup(encoding).name == "utf-8"
        else message("UTF-8 text, or {encoding}, as the locale says", encoding=encoding),
        remedy="save the text as UTF-8, or set LC_ALL to the locale of its encoding",
    )


def require_text(text: str) -> str:
    """`text` itself.

    Raises:
        UsageError: it has bytes that are not text in the terminal's encoding.
    """
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise UsageError(
            "what was typed is not UTF-8 text",
            wanted=message(
                "text in the encoding of the locale ({encoding})", encoding=sys.stdin.encoding
            ),
            remedy="set the terminal to UTF-8, or start pedsup with the terminal's own locale in "
            "LC_ALL; then type it again",
        )
    return text


def json_text(document: object, *, indent: int | None = 1) -> str:
    """JSON for standard output: with escapes where its encoding lacks a character."""
    text = json.dumps(document, ensure_ascii=False, indent=indent)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        text = json.dumps(document, indent=indent)
    return text


class _Progress(io.TextIOWrapper):
    """Standard error: writing to it never fails."""

    @classmethod
    def on(cls, fd: int, before: TextIO | None) -> _Progress:
        """On an open file number, in the encoding of the stream that was there."""
        encoding = (before.encoding if before is not None else None) or "utf-8"
        raw = os.fdopen(fd, "wb", closefd=False)
        return cls(raw, encoding=encoding, errors=HANDLER, line_buffering=True)

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        with suppress(OSError):
            _discard(self.fileno())


def _discard(fd: int) -> None:
    """Let what is written to a file number from now on go nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, fd)
    os.close(null)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _readable(error: UnicodeError) -> tuple[str, int]:
    """The codec error handler: each character that an encoding lacks, spelled in ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(map(_spell, characters)), error.end


def _spell(character: str) -> str:
    if "\ud800" <= character <= "\udfff":
        return "?"
    if character in _SPELLED:
        return _SPELLED[character]
    # An accent that the encoding lacks costs the accent, not the letter.
    plain = (c for c in unicodedata.normalize("NFKD", character) if c.isascii() and c.isalnum())
    return next(plain, "?")
