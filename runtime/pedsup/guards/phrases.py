"""Text made comparable, and whether a phrase found in it is negated."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_CLAUSE_END: Final = re.compile(
    r"[.;:!?\n]|\b(?:but|however|although|except|pero|aunque|sin embargo|salvo)\b"
    # A new verb begins a new statement: 'does not drink and is floppy'. A list goes on.
    r"|(?:,|\band|\by)\s+(?:now\s+|ahora\s+)?(?:he|she|it|is|has|had|looks|with|tiene|esta|presenta|"
    r"se|luce|con)\b"
)
_DENIED_BEFORE: Final = re.compile(
    r"\b(?:no|not|non|nor|without|denies|denied|never|negative for|absence of|free of|"
    r"rule[sd]? out|"
    r"isn t|hasn t|doesn t|didn t|wasn t|"
    r"sin|niega|niegan|nego|ni|nunca|jamas|ausencia de|negativo para|descarta|descartar|"
    r"descartad[oa]s?)\b"
)
_DENIED_AFTER: Final = re.compile(
    r"^[\s,]*(?:\d+ (?:years?|months?|weeks?) ago|hace \d+ (?:anos|meses|semanas))\b|"
    r"^[\s,]*(?:(?:is|are|was|were|has been|have been|esta|estan|fue|fueron|ha sido|han sido)\s+)?"
    r"(?:absent|ruled out|negative|denied|ausentes?|descartad[oa]s?|negativ[oa]s?|negad[oa]s?)\b"
)
_HYPOTHETICAL: Final = re.compile(
    r"\b(?:if|whether|in case of|risk of|prevent(?:s|ing|ion of)?|causes?|"
    r"signs? of(?! danger)|history of|family history|previous|past|would|"
    r"should(?! (?:i|we)\b)|deberia(?! (?:buscar|vigilar|observar|evaluar|revisar|hacer)\b)|"
    r"si|en caso de|riesgo de|preven(?:ir|cion de)|causas? de|"
    r"signos? de(?! (?:alarma|peligro|gravedad)\b)|antecedentes? de|"
    r"previ[oa]s?)\b"
)
WINDOW: Final = 60
"""How many characters before a phrase a negation counts."""
_WRAPPED: Final = re.compile(r"(?<![.:;!?\n])\r?\n(?=[^\W\d_A-Z])")
"""A line break inside a sentence: the next line goes on in lower case."""
_WORDS: Final = """
    one=1 two=2 three=3 four=4 five=5 six=6 seven=7 eight=8 nine=9 ten=10 eleven=11 twelve=12
    thirteen=13 fourteen=14 fifteen=15 sixteen=16 seventeen=17 eighteen=18 nineteen=19 twenty=20
    thirty=30 forty=40 fifty=50 hundred=100
    dos=2 tres=3 cuatro=4 cinco=5 seis=6 siete=7 ocho=8 nueve=9 diez=10 once=11 doce=12 trece=13
    catorce=14 quince=15 dieciseis=16 diecisiete=17 dieciocho=18 diecinueve=19 veinte=20
    veintiun=21 veintidos=22 veintitres=23 veinticuatro=24 veinticinco=25 treinta=30 cuarenta=40
    cincuenta=50 cien=100 ciento=100 doscientos=200 doscientas=200 trescientos=300
    cuatrocientos=400 quinientos=500 quinientas=500 mil=1000
"""
_VALUES: Final = {word: value for word, _, value in (p.partition("=") for p in _WORDS.split())}
_COUNTED: Final = (
    r"(?:years?|months?|weeks?|days?|hours?|minutes?|anos?|mes(?:es)?|semanas?|dias?|horas?|"
    r"kg|kilos?|kilograms?|kilogramos?|lbs?|pounds?|libras?|mg|ml|milli\w+|mili\w+|grams?|gramos|"
    r"drops|gotas|tablets?|tabletas?|pills|pastillas|capsul\w+|comprimidos|puffs?|doses|dosis)"
)
_HUNDREDS: Final = re.compile(rf"\b({'|'.join(_VALUES)})[ -]hundred\b")
_NUMBER_WORD: Final = re.compile(
    rf"\b({'|'.join(sorted(_VALUES, key=len, reverse=True))})(?=[ -]{_COUNTED}\b)"
)


def plain(text: str) -> str:
    """Text as it is compared: lower case, without accents and invisible characters, wrapped lines
    joined, apostrophes as spaces, and numbers before a unit in digits ('two-year-old')."""
    decomposed = unicodedata.normalize("NFKD", _WRAPPED.sub(" ", text).casefold())
    bare = "".join(
        c for c in decomposed if not unicodedata.combining(c) and unicodedata.category(c) != "Cf"
    )
    spaced = re.sub(r"[ \t\u00a0'\u2019`]+", " ", bare)
    hundreds = _HUNDREDS.sub(lambda m: f"{_VALUES[m[1]]}00", spaced)
    return _NUMBER_WORD.sub(lambda m: _VALUES[m[1]], hundreds)


def is_meant(text: str, start: int, end: int) -> bool:
    """Whether the phrase at `start:end` of plain text is asserted, not denied and not supposed.

    Looks in its clause, as NegEx does (Chapman et al., J. Biomed. Inform. 34
    (2001) 301): a word of denial up to 60 characters before it, or right after it.
    """
    before = text[max(0, start - WINDOW) : start]
    clause = _CLAUSE_END.split(before)[-1]
    if _DENIED_BEFORE.search(clause) or _HYPOTHETICAL.search(clause):
        return False
    return not _DENIED_AFTER.search(text[end : end + 40])
