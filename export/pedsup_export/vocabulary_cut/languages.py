"""The languages a vocabulary can be cut to: their letters, and where their words come from.

Quechua and Aymara have no word list. They are written with Spanish letters, an apostrophe and, in
Aymara, a diaeresis; Gemma 4 has hardly any token of their own, and spells them with short pieces.
So for them the short pieces of those letters are kept, and no claim of frequency is made.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pedsup.errors import UsageError

_ASCII: Final = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Language:
    """One language."""

    code: str
    """ISO 639-1."""
    name: str
    letters: frozenset[str]
    """In lower case."""
    words: str | None
    """Name of the list in `wordfreq`; None where it has none."""


def _language(code: str, name: str, more: str, *, words: bool = True) -> Language:
    return Language(code, name, frozenset(_ASCII + more), code if words else None)


LANGUAGES: Final = {
    language.code: language
    for language in (
        _language("en", "English", ""),
        _language("es", "Spanish", "áéíóúüñ"),
        _language("pt", "Portuguese", "áâãàçéêíóôõúü"),
        _language("fr", "French", "àâæçéèêëîïôœùûüÿ"),
        _language("qu", "Quechua", "áéíóúüñ", words=False),
        _language("ay", "Aymara", "áéíóúüñäëïö", words=False),
    )
}


def parse_languages(text: str) -> tuple[Language, ...]:
    """Read `es,en`.

    Raises:
        UsageError: none, an unknown one, or one twice.
    """
    codes = [code.strip().lower() for code in text.split(",")]
    known = ", ".join(f"{c} ({language.name})" for c, language in LANGUAGES.items())
    for code in codes:
        if code not in LANGUAGES:
            raise UsageError(
                f"'{code}' is not a language that the vocabulary can be cut to",
                where=f"--languages {text}",
                wanted=known,
                remedy="for example --languages es,en",
            )
    if len(set(codes)) != len(codes):
        raise UsageError("a language is given twice", where=f"--languages {text}")
    return tuple(LANGUAGES[code] for code in codes)


def letters_of(languages: Iterable[Language]) -> frozenset[str]:
    """The letters of all of them, in both cases."""
    lower = frozenset[str]().union(*(language.letters for language in languages))
    return lower | {c for letter in lower if len(c := letter.upper()) == 1}
