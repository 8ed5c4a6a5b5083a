"""The current language, and a message in it. Small: every start imports it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from pedsup.errors import PedsupError
from pedsup.files.paths import config_folder
from pedsup.messages import Message, Value, as_message
from pedsup.texts.intended_use import Language


class _Current:
    """The language `pedsup-run` was told to use. Other programs stay English."""

    words: Sequence[str] | None = None
    language: Language | None = None


def detect_language(words: Sequence[str]) -> None:
    """`pedsup-run` begins with this command line, which says the language until it is set."""
    _Current.words, _Current.language = words, None


def set_language(chosen: Language | None) -> Language:
    """From now on messages are in this language; None: as the command line was understood."""
    words = _Current.words or ()
    _Current.language = chosen or _Current.language or _detected(words)
    return _Current.language


def current_language() -> Language:
    """The language of messages: set, or as command line, settings file or locale say."""
    if _Current.language is None:
        if _Current.words is None:
            return "en"
        _Current.language = _detected(_Current.words)
    return _Current.language


def translated(text: str, language: Language | None = None) -> str:
    """A message in the current language, or in the one given."""
    language = language or current_language()
    if language == "en":
        return str(text)
    return rendered(text, catalogue(language))


@cache
def catalogue(language: Language) -> dict[str, str]:
    """Every msgid of `<language>.json` with its translation; English has no file."""
    if language == "en":
        return {}
    sections: dict[str, dict[str, str]] = json.loads(file_of(language).read_text("utf-8"))
    return {msgid: text for section in sections.values() for msgid, text in section.items()}


def file_of(language: Language) -> Path:
    """The file of a language: msgid to text, in sections for those who edit it."""
    return Path(__file__).with_name(f"{language}.json")


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


def error_text(error: Exception, language: Language | None = None) -> str:
    """What `str(error)` is, in the current language or in the one given."""
    text = error.text() if isinstance(error, PedsupError) else as_message(error)
    return translated(text, language)


def _detected(words: Sequence[str]) -> Language:
    return _language(_option(words, "--lang")) or _kept(words) or system_language()


def _option(words: Sequence[str], name: str) -> str | None:
    """The value of an option, even on a command line that is wrong elsewhere."""
    for word, following in zip(words, [*words[1:], None], strict=False):
        if word == name:
            return following
        if word.startswith(f"{name}="):
            return word.removeprefix(f"{name}=")
    return None


def _kept(words: Sequence[str]) -> Language | None:
    """`lang` of the settings file, even where another line of it is wrong."""
    given = _option(words, "--settings")
    try:
        file = Path(given) if given else config_folder() / "settings.toml"
        with file.open(encoding="utf-8-sig") as lines:
            found = re.search(r"^lang *= *[\"'](en|es)[\"']", lines.read(1 << 16), re.MULTILINE)
    except (OSError, ValueError):
        return None
    return _language(found[1]) if found else None


def _language(name: str | None) -> Language | None:
    return "es" if name == "es" else "en" if name == "en" else None


def system_language() -> Language:
    """Spanish where the locale says so."""
    for variable in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if value := os.environ.get(variable):
            return "es" if value.lower().startswith("es") else "en"
    return "en"
