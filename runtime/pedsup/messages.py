"""What pedsup says, in a form that can still be translated when it is shown.

Whoever raises an error or notes something does not know who will read it. So a text is made with
`message("the file {path} is too large", path=path)`: it is a `str`, the English text, and keeps its
id and its values. Where it is shown, `pedsup.texts.language.translated` looks the id up in the
reader's language and fills in the same values. A literal without values is its own id.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final

Value = str | int | float
"""A value in a message: numbers, text that is the same in every language, or a `Message`."""
MAX_SAID: Final = 1 << 16
"""Characters of a message from a document: two values that occur in it often take more than any
memory holds."""
NONE: Final[Mapping[str, Value]] = MappingProxyType({})
MAX_DEPTH: Final = 8
"""Depth of messages within messages; a deeper document is not one of ours."""


class Message(str):
    """English text that knows its id and its values.

    Args:
        msgid: the English text with `{name}` where a value stands. Without values it is taken as
            it is, braces too.
        values: by name. What is neither text nor a number is kept as `str(value)`.
    """

    __slots__ = ("msgid", "values")

    msgid: str
    values: Mapping[str, Value]

    def __new__(cls, msgid: str, values: Mapping[str, object] = NONE) -> Message:
        kept = {name: _value(value) for name, value in values.items()}
        made = super().__new__(cls, msgid.format_map(kept) if kept else msgid)
        made.msgid = str(msgid)
        made.values = kept
        return made

    def filled(self, **values: object) -> Message:
        """A message from a table, with its values."""
        return Message(self.msgid, values)

    def mapped(self, change: Callable[[str], str]) -> Message:
        """The message with `change` made to each of its texts; to its id where it has no values."""
        if not self.values:
            return Message(change(self.msgid))
        values = {
            name: value.mapped(change) if isinstance(value, Message)
            else change(value) if isinstance(value, str) else value
            for name, value in self.values.items()
        }  # fmt: skip
        return Message(self.msgid, values)

    def document(self) -> dict[str, object]:
        """The message as JSON values; `from_document` reads it."""
        values = {
            name: value.document() if isinstance(value, Message) else value
            for name, value in self.values.items()
        }
        return {"msgid": self.msgid, "values": values} if values else {"msgid": self.msgid}


def message(msgid: str, /, **values: object) -> Message:
    """A text that is shown to the user. `msgid` must be a literal: a test reads it."""
    return Message(msgid, values)


def joined(separator: str, parts: Iterable[str]) -> Message:
    """Messages, or texts that are the same in every language, behind one another as one message."""
    values = {f"part{i}": part for i, part in enumerate(parts)}
    return Message(separator.join(f"{{{name}}}" for name in values), values)


def as_message(text: object) -> Message:
    """A message as it is; other text as a message without values."""
    return text if isinstance(text, Message) else Message(str(text))


def reason_of(error: Exception) -> Message:
    """Why something failed, in one line: our own words, the operating system's, or Python's."""
    first = error.args[0] if error.args else ""
    if isinstance(first, Message):
        return first
    if isinstance(error, OSError):
        return Message(error.strerror or type(error).__name__)
    line = str(error).partition("\n")[0]
    return Message(line if isinstance(error, ValueError) else f"{type(error).__name__}: {line}")


def from_document(document: object, depth: int = MAX_DEPTH) -> Message | None:
    """The message of `Message.document`; None if it is not one: it may come from a file."""
    if not isinstance(document, dict) or depth == 0:
        return None
    msgid, given = document.get("msgid"), document.get("values", {})
    if not isinstance(msgid, str) or not isinstance(given, dict):
        return None
    values: dict[str, object] = {}
    for name, value in given.items():
        values[name] = from_document(value, depth - 1) if isinstance(value, dict) else value
        if not isinstance(values[name], str | int | float):
            return None
    if values and not _is_sound(msgid, values):
        return None
    return Message(msgid, values)


def _value(value: object) -> Value:
    return value if isinstance(value, str | int | float) else str(value)


def _is_sound(msgid: str, values: Mapping[str, object]) -> bool:
    """Whether a text has these values as plain `{names}`, and stays within `MAX_SAID` with them."""
    try:
        fields = [field for field in string.Formatter().parse(msgid) if field[1] is not None]
    except ValueError:
        return False
    names = [str(name) for _, name, _, _ in fields]
    if set(names) != set(values) or any(spec or conversion for *_, spec, conversion in fields):
        return False
    length = len(msgid) + sum(len(str(values[name])) for name in names)
    return length <= MAX_SAID and all(map(str.isidentifier, names))
