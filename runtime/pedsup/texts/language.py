"""Which language this process speaks, and a message in it. Small: every start imports it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from pedsup.texts.intended_use import Language


class _Spoken:
    """What `pedsup-run` was told. Other programs tell nothing, and stay English."""

    words: Sequence[str] | None = None
    chosen: Language | None = None


def listen(words: Sequence[str]) -> None:
    """`pedsup-run` begins with this command line: until `use` it is asked for the language."""
    _Spoken.words, _Spoken.chosen = words, None


def use(language: Language) -> None:
    """From now on messages are in this language."""
    _Spoken.chosen = language


def spoken() -> Language:
    """The language of messages now: chosen, or as command line, settings file or locale say."""
    if _Spoken.chosen is None:
        if _Spoken.words is None:
            return "en"
        _Spoken.chosen = _asked_for(_Spoken.words) or _kept() or system_language()
    return _Spoken.chosen


def local(english: str, language: Language | None = None) -> str:
    """A message in the language spoken now, or in the one given."""
    if (language or spoken()) == "en":
        return english
    from pedsup.texts.spanish import spanish

    return spanish(english)


def error_text(error: Exception) -> str:
    """What `str(error)` is, in the language spoken now."""
    if spoken() == "en":
        return str(error)
    from pedsup.texts.spanish import described

    return described(error)


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
