"""What is kept whatever the language: digits, punctuation, white space, medical signs and units.

Word counts do not include signs: the token of a space and `¿` is in no word list, and without
it every Spanish question costs one token more. So signs are kept by rule.
"""

from __future__ import annotations

import string
from typing import Final

DIGITS: Final = frozenset(string.digits)
_LATIN_1: Final = frozenset(
    chr(c) for c in range(0xA1, 0x100) if not chr(c).isalpha() or chr(c) in "ªºµ"
)
_TYPOGRAPHY: Final = frozenset("‐‑‒–—―‘’‚“”„†‡•…‰′″‹›⁄ʼ\u200b\u200d\ufeff\u00ad\ufe0f")
_RAISED_LOWERED: Final = frozenset("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿ₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₓ")
_MATHEMATICS: Final = frozenset("∂∆∏∑−∙√∝∞∫≈≠≡≤≥≦≧≪≫∅∈∴±×÷∼")
_ARROWS_MARKS: Final = frozenset("←↑→↓↔⇒⇔⇑⇓■□▪▫▲△▼▽►◄●○◦★☆☐☑☒✓✔✗✘⚠♀♂")
_OTHER: Final = frozenset("€™℃℉№ℓΩ⅓⅔⅛⅜⅝⅞")
GREEK: Final = frozenset(chr(c) for c in range(0x391, 0x3CA) if c != 0x3A2)
"""Letters that medicine uses: α, β, γ, Δ, μ and the rest."""
ACCENTS: Final = frozenset("\u0300\u0301\u0302\u0303\u0308\u0327")
"""Combining marks: a text that was saved decomposed spells ñ as n and a tilde."""
LATIN_LETTERS: Final = frozenset(
    {*string.ascii_letters, *(chr(c) for c in range(0xC0, 0x180) if chr(c).isalpha())}
)
"""Single letters of European names, kept alone: they cost 300 tokens at most."""
SIGNS: Final = (
    frozenset(string.punctuation) | _LATIN_1 | _TYPOGRAPHY | _RAISED_LOWERED | _MATHEMATICS
) | (_ARROWS_MARKS | _OTHER)
SINGLE: Final = SIGNS | DIGITS | GREEK | ACCENTS | LATIN_LETTERS
"""Characters whose own token is kept."""
LONGEST_SIGNS: Final = 2
"""Signs in a row, after one space or none, whose token is kept by rule (`).`, ` (`, `»,`). Of three
signs only those of prose are kept; longer rows, such as the rulers of program text, must come up in
a text."""
_CLOSING: Final = frozenset('.,;:)]!?»”"')

UNITS: Final = (
    *("mg", "g", "kg", "µg", "μg", "mcg", "ng", "pg", "mL", "ml", "cc", "L", "l", "dL", "dl"),
    *("µL", "μL", "fL", "mm", "cm", "m", "km", "nm", "µm", "μm", "mmHg", "cmH2O", "cmH₂O", "kPa"),
    *("mmol", "µmol", "μmol", "mol", "mEq", "mOsm", "IU", "UI", "U", "mU", "kcal", "kJ", "cal"),
    *("°C", "°F", "ºC", "ºF", "%", "‰", "Hz", "kV", "mV", "mA", "Gy", "mSv", "bpm", "lpm", "rpm"),
    *("mg/kg", "mL/kg", "ml/kg", "mcg/kg", "µg/kg", "mg/dL", "mg/dl", "g/dL", "g/dl", "g/L"),
    *("mmol/L", "mEq/L", "mg/kg/day", "mg/kg/día", "mg/kg/dose", "mg/kg/dosis", "mL/kg/h"),
    *("kg/m2", "kg/m²", "mg/m2", "mg/m²", "/mm3", "/mm³", "/µL", "x10", "×10", "cells/mm3"),
    *("h", "hr", "hrs", "min", "s", "seg", "sec", "d", "wk", "sem", "mo", "yr", "años", "a"),
    *("IV", "IM", "SC", "PO", "VO", "EV", "SL", "PR", "PRN", "BID", "TID", "QID", "QD", "stat"),
    *("SpO2", "SpO₂", "SatO2", "PaO2", "PaCO2", "FiO2", "CO2", "O2", "H2O", "HCO3", "pH", "BE"),
    *("Na+", "K+", "Ca2+", "Cl-", "Na⁺", "K⁺", "Ca²⁺", "Hb", "Hto", "Hct", "WBC", "RBC", "PCR"),
    *("HR", "RR", "BP", "FC", "FR", "PA", "T°", "BMI", "IMC", "MUAC", "PB", "TBSA", "SCQ", "GCS"),
    *("BCG", "DTP", "MMR", "SRP", "OPV", "IPV", "HPV", "VPH", "HIV", "VIH", "TB", "RSV", "VSR"),
    *("ORS", "SRO", "IMCI", "AIEPI", "WHO", "OMS", "OPS", "PAHO", "MINSA", "UCI", "ICU", "NICU"),
    *("ECG", "EKG", "EEG", "CSF", "LCR", "CBC", "CRP", "ESR", "VSG", "ALT", "AST", "TSH", "LDH"),
    *("IgG", "IgM", "IgA", "IgE", "α", "β", "γ", "Δ", "β2", "β-hCG", "α-fetoprotein"),
    *("±", "≥", "≤"),
)  # fmt: skip
"""Units, routes, laboratory values and abbreviations; the pieces of each are kept, with a space
before it and without."""


def is_signs(text: str) -> bool:
    """Whether a token is a short row of signs, after one space or none."""
    bare = text.removeprefix(" ")
    if not all(c in SIGNS for c in bare):
        return False
    return 0 < len(bare) <= LONGEST_SIGNS or (len(bare) == 3 and _of_prose(bare))


def _of_prose(row: str) -> bool:
    """Whether three signs are of prose: `...`, `---`, `(+)`, `%).`, `…).`."""
    return (
        len(set(row)) == 1
        or (row[0] == "(" and row[-1] == ")")
        or (_CLOSING.issuperset(row[1:]) and row[0] not in "<>=\\{}$#@&|")
    )


def is_white(text: str) -> bool:
    """Whether a token is nothing but white space."""
    return bool(text) and text.isspace()
