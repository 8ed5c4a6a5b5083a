"""Text made comparable, and whether a found phrase is denied where it stands."""

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
    r"^[\s,]*(?:(?:is|are|was|were|has been|have been|esta|estan|fue|fueron|ha sido|han sido)\s+)?"
    r"(?:absent|ruled out|negative|denied|ausentes?|descartad[oa]s?|negativ[oa]s?|negad[oa]s?)\b"
)
_HYPOTHETICAL: Final = re.compile(
    r"\b(?:if|in case of|risk of|prevent(?:s|ing|ion of)?|causes? of|signs? of|history of|"
    r"family history|previous|past|should|would|"
    r"si|en caso de|riesgo de|preven(?:ir|cion de)|causas? de|signos? de|antecedentes? de|"
    r"previ[oa]s?|deberia)\b"
)
WINDOW: Final = 60
"""Characters before a phrase in which a denial counts."""


def plain(text: str) -> str:
    """Lower case, without accents, apostrophes as spaces; as long as it needs to be compared."""
    decomposed = unicodedata.normalize("NFD", text.casefold())
    bare = "".join(c for c in decomposed if not unicodedata.combining(c))
    return re.sub(r"[ \t\u00a0'\u2019`]+", " ", bare)


def is_meant(text: str, start: int, end: int) -> bool:
    """Whether the phrase at `start:end` of plain text is asserted, not denied and not supposed.

    Looks in the clause it stands in, as NegEx does (Chapman et al., J. Biomed. Inform. 34
    (2001) 301): a word of denial up to 60 characters before it, or right after it.
    """
    before = text[max(0, start - WINDOW) : start]
    clause = _CLAUSE_END.split(before)[-1]
    if _DENIED_BEFORE.search(clause) or _HYPOTHETICAL.search(clause):
        return False
    return not _DENIED_AFTER.search(text[end : end + 40])
