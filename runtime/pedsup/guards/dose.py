"""Doses: whether one is asked for without a weight, and whether an answer names one."""

from __future__ import annotations

import re
from typing import Final

_UNIT: Final = (
    r"(?:mg|mcg|microgramos?|micrograms?|ug|\u00b5g|\u03bcg|g|gramos?|grams?|ml|cc|ui|iu|"
    r"units?|unidades|meq|"
    r"gotas|drops|ampoules?|ampollas?|vials?|viales|sachets?|sobres?|comprimidos?|tabs?|caps|"
    r"tsp|tbsp|tablespoons?|cucharadas?|supositorios?|suppositor(?:y|ies)|tablets?|tabletas?|pills?|pastillas?|capsules?|capsulas?|puffs?|"
    r"teaspoons?|cucharaditas?|milligrams?|miligramos?|mililitros?|millilit(?:er|re)s?)"
)
_NUMBER: Final = r"\d+(?:[.,]\d+)?(?:\s?(?:-|to|a|\u2013)\s?\d+(?:[.,]\d+)?)?"
_AMOUNT: Final = re.compile(
    rf"(?<![\d.,/])\b({_NUMBER})\s?{_UNIT}\b(?P<per>\s?(?:/|per|por)\s?\w+)?"
    r"|\b(?:half(?: an?| of an?)?|one|a|medi[ao]|una?)\s"
    r"(?:tablet|capsule|teaspoon|tablespoon|ampoule|sachet|suppository|tableta|pastilla|comprimido|capsula|cucharadita|cucharada|ampolla|sobre|"
    r"supositorio)\b"
)
_PER_WEIGHT: Final = re.compile(r"\s?(?:/|per|por)\s?(?:kg|kilo|kilogram|kilogramo|m2)")
_NOT_A_DOSE: Final = re.compile(r"\s?(?:/|per|por)\s?(?:d?l|ml|litre|liter|litro|100|mmol)\b")
"""A concentration or a laboratory value."""
_FOOD: Final = (
    r"(?:milk|formula|water|food|sleep|screen|time|weight|blood|exercise|pain|salt|sugar|protein|"
    r"leche|agua|comida|sueno|tiempo|peso|sangre|sal|azucar|hora|horas|veces|anos|meses|dias)"
)
_MEASURES: Final = (
    r"(?:mg|mls?|milligrams|millilit(?:er|re)s|mcg|drops|tablets|pills|units|puffs|teaspoons|"
    r"miligramos|mililitros|gotas|pastillas|tabletas|unidades|cucharad(?:it)?as|comprimidos)"
)
_ASKS: Final = re.compile(
    r"\b(?:dos(?:e|es|is)(?![ -](?:respon|respue|dependen|relation))|dosage|dosing|dosaje|"
    r"dosificar?|dosificacion|posologia|"
    rf"how (?:much|many) {_MEASURES}\b(?! of {_FOOD}\b)|"
    rf"how (?:much|many) (?!{_FOOD}\b)(?:\w+ ){{1,3}}?(?:should|do|can|could|to) "
    r"(?:(?:i|we|you) )?give|"
    rf"how much (?!{_FOOD}\b)\w+ for (?:an?|my|the|this|her|him)\b|"
    rf"cuant[oa]s? (?:{_MEASURES}\b(?! de {_FOOD}\b)|(?:le )?(?:doy|debo dar|puedo dar)|"
    rf"(?!{_FOOD}\b)\w+ (?:le )?(?:doy|debo dar|puedo dar|hay que dar|se le da|para (?:un|una|mi|"
    r"el|la|este|esta)\b)))"
)
_NO_MEDICINE: Final = re.compile(
    r"\b(?:vaccin\w*|vacun\w*|booster|refuerzo|dpt|opv|ipv|bcg|mmr|immuni[sz]\w*|inmuni[sz]\w*|"
    r"colon(?:y|ies|ias?)|mg/kg\w*|mcg/kg\w*|(?:per|por) (?:kg|kilo\w*))\b"
)
"""Vaccines are dosed by age; a question in mg/kg asks for no amount; colonies are counted."""
_WEIGHT: Final = re.compile(
    r"\b\d+(?:[.,]\d+)?[\s-]?(?:kg|kgs|kilos?|kilograms?|kilogramos?|lb|lbs|pounds?|libras?)\b"
    r"|\b(?:newborn|neonate|preterm|birth ?weight|recien nacid[oa]|rn|neonato|pretermino|peso)\b"
    r"[^.\n]{0,40}?\b\d{3,4}\s?(?:g|gr|grams|gramos)\b"
    r"|\b(?:weigh(?:s|ing|t)?|wt|pes[ao]|pesa|pesando)\b(?:\W+(?:is|of|es|de|about|unos?|around))*\W+"
    r"\d+(?:[.,]\d+)?\s?(?:kg|k|g|gramos?|grams?|lb)?\b"
    r"|\b\d{3,4}\s?(?:g|gramos|grams)\b(?=\W+(?:newborn|neonate|birth|recien|al nacer|rn))"
)
_TAKEN: Final = re.compile(
    r"\b(?:give|gives|given|take|takes|administer|dose|dosage|start|load|daily|hourly|every|"
    r"t\.?i\.?d|b\.?i\.?d|q\.?i\.?d|q ?\d+ ?h\w*|c/ ?\d+ ?h\w*|stat|once|twice|thrice|max\w*|"
    r"times a day|per day|orally|intravenous(?:ly)?|iv|im|po|oral|mouth|bolus|"
    r"dar|dele|administr\w+|tom\w+|dosis|iniciar|cada|veces al dia|al dia|por dia|diari[oa]s?|"
    r"via oral|vo|ev|intramuscular|intravenos[oa]|bolo)\b"
)


def asks_for_a_dose(text: str) -> bool:
    """Whether plain text asks how much of something to give."""
    return _ASKS.search(text) is not None and _NO_MEDICINE.search(text) is None


def has_weight(text: str) -> bool:
    # 15 mg/kg is not a weight: no number stands before its 'kg'.
    return _WEIGHT.search(text) is not None


def absolute_doses(text: str) -> list[str]:
    """Amounts to give (`500 mg`) in plain text, without those per kilogram and without values.

    An amount counts when its line has a word of giving; 'haemoglobin 9 g' does not.
    """
    found = []
    for match in _AMOUNT.finditer(text):
        begin = match.start("per") if match["per"] else match.end()
        after = text[begin : begin + 24]
        if _PER_WEIGHT.match(after) or _NOT_A_DOSE.match(after):
            continue
        line_start = text.rfind("\n", 0, match.start()) + 1
        line_end = text.find("\n", match.end())
        rest = text[begin : line_end if line_end >= 0 else None]
        around = f"{text[line_start : match.start()]} {rest}"
        if _TAKEN.search(around[-200:] if len(around) > 400 else around):
            found.append(match.group(0).removesuffix(match.group("per") or "").strip())
    return found
