"""The current language, and a message in it. Small: every start imports it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from pedsup.errors import PedsupError
from pedsup.messages import as_message
from pedsup.texts.intended_use import Language


class _Current:
    """What `pedsup-run` was told. Other programs tell nothing, and stay English."""

    words: Sequence[str] | None = None
    language: Language | None = None


def detect_language(words: Sequence[str]) -> None:
    """`pedsup-run` begins with this command line, which says the language until it is set."""
    _Current.words, _Current.language = words, None


def set_language(chosen: Language | None) -> Language:
    """From now on messages are in this language; None: in that of the locale."""
    _Current.language = chosen or system_language()
    return _Current.language


def current_language() -> Language:
    """The language of messages: set, or as command line, settings file or locale say."""
    if _Current.language is None:
        if _Current.words is None:
            return "en"
        _Current.language = _asked_for(_Current.words) or _kept() or system_language()
    return _Current.language


def translated(text: str, language: Language | None = None) -> str:
    """A message in the current language, or in the one given."""
    language = language or current_language()
    if language == "en":
        return str(text)
    from pedsup.texts.catalogue import catalogue, rendered  # not for English

    return rendered(text, catalogue(language))


def error_text(error: Exception, language: Language | None = None) -> str:
    """What `str(error)` is, in the current language or in the one given."""
    text = error.text() if isinstance(error, PedsupError) else as_message(error)
    return translated(text, language)


def _asked_for(words: Sequence[str]) -> Language | None:
    """`--lang`, even on a command line that is wrong elsewhere."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        value = following if word == "--lang" else word.removeprefix("--lang=")
        if value in ("en", "es") and (word == "--lang" or word != value):
            return "es" if value == "es" else "en"
    return None


def _kept() -> Language | None:
    """`lang` of the settings file, even where another line of it is wrong."""
    from pedsup.files.paths import config_folder

    try:
        with (config_folder() / "settings.toml").open(encoding="utf-8-sig") as file:
            found = re.search(r"^lang *= *[\"'](en|es)[\"']", file.read(1 << 16), re.MULTILINE)
    except (OSError, ValueError):
        return None
    return None if found is None else "es" if found[1] == "es" else "en"


def system_language() -> Language:
    """Spanish where the locale says so."""
    for variable in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if value := os.environ.get(variable):
            return "es" if value.lower().startswith("es") else "en"
    return "en"
