"""The catalogue of a language maps English text to its translation. Loaded on first use."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Final

from pedsup.messages import Message, Value
from pedsup.texts.intended_use import Language

FOLDER: Final = Path(__file__).parent


@cache
def catalogue(language: Language) -> dict[str, str]:
    """Every msgid of `<language>.json` with its translation; English has no file."""
    if language == "en":
        return {}
    sections: dict[str, dict[str, str]] = json.loads(file_of(language).read_text("utf-8"))
    return {msgid: text for section in sections.values() for msgid, text in section.items()}


def file_of(language: Language) -> Path:
    """The file of a language: msgid to text, in sections for those who edit it."""
    return FOLDER / f"{language}.json"


def rendered(text: str, known: dict[str, str]) -> str:
    """A message in the language of a catalogue; what is not in it stays English.

    A value that is a message is translated too; every other value is the user's own.
    """
    if not isinstance(text, Message):
        return known.get(text, text)
    template = known.get(text.msgid, text.msgid)
    if not text.values:
        return template
    values: dict[str, Value] = {
        name: rendered(value, known) if isinstance(value, Message) else value
        for name, value in text.values.items()
    }
    return template.format_map(values)
