"""Signs in a question that want help now, not a language model.

The list follows the general danger signs and emergency signs of the WHO's IMCI chart booklet
(2014) and ETAT guideline (2016): not able to drink, vomits everything, convulsions, lethargic or
unconscious; obstructed or absent breathing, severe respiratory distress, cyanosis, shock; and
what every triage adds: poisoning, anaphylaxis, bleeding that does not stop, a rash that does not
blanch, fever in the first weeks of life, suicide.
"""

from __future__ import annotations

import re
from typing import Final

from pedsup.guards.phrases import is_meant

_CHILD: Final = (
    r"(?:child|boy|girl|baby|infant|newborn|neonate|toddler|patient|son|daughter|kid|teenager|"
    r"adolescent|nino|nina|bebe|lactante|recien nacid[oa]|neonato|paciente|hij[oa]|escolar|"
    r"preescolar|adolescente|menor|chiquit[oa])"
)
_SOMEONE: Final = re.compile(
    rf"\b(?:my|this|the|our|mi|este|esta|el|al|del|la|nuestr[oa])\s+(?:\w+\s+){{0,3}}?{_CHILD}\b"
    r"|\b\d+\s*[- ]?\s*(?:years?|months?|weeks?|days?|hours?|y/?o|mo|anos?|mes(?:es)?|semanas?|"
    r"dias?|horas?)\b"
    r"|\b(?:he|she|right now|at this moment|just now|ahora|ahorita|en este momento|acaba de|"
    r"lo traen|la traen|llega)\b"
    rf"|\b(?:a|an|un|una)\s+(?:\w+\s+){{0,3}}?{_CHILD}\s+(?:who\s+|que\s+)?"
    r"(?:is|has|had|can|cannot|came|presents|esta|tiene|presenta|no puede|llego|ingreso)\b"
)
"""Someone is meant, not a textbook question: a definite child, an age, 'now', or a verb."""

SIGNS: Final[dict[str, re.Pattern[str]]] = {
    name: re.compile(pattern)
    for name, pattern in {
        "convulsions": r"\b(?:convuls(?:ion|ions|ing|iones|ionando|iona)|seizures?|seizing|fitting|"
        r"status epilepticus|estado epileptico)\b",
        "unconscious or lethargic": r"\b(?:unconscious|unresponsive|lethargic|letargic[oa]|"
        r"inconsciente|no responde|does not wake|will not wake|won t wake|cannot be woken|"
        r"no (?:se )?despierta|floppy|comatose|comatos[oa]|coma|flacid[oa])\b",
        "not able to drink": r"\b(?:(?:cannot|can t|unable to|not able to|won t) "
        r"(?:drink|breastfeed|feed|suck)|no puede (?:beber|mamar|lactar|tomar)|"
        r"no (?:bebe|mama|lacta|succiona)(?: nada)?(?=[\s,.;]|$)|"
        r"rechaza todo|refuses all (?:feeds|fluids))",
        "vomits everything": r"\b(?:vomit(?:s|ing)? everything|vomita todo|vomitando todo|"
        r"vomits? all (?:feeds|fluids))\b",
        "not breathing or severe distress": r"\b(?:not breathing|stopped breathing|apn(?:o)?eas?|"
        r"gasping|no respira|dejo de respirar|deja de respirar|"
        r"stridor at rest|estridor en reposo|choking|atragantad[oa]|se ahoga|"
        r"severe (?:chest |subcostal )?(?:indrawing|retractions|respiratory distress)|"
        r"tiraje (?:subcostal |intercostal )?(?:grave|severo|marcado)|"
        r"dificultad respiratoria (?:grave|severa)|grunting|quejido)\b",
        "cyanosis": r"\b(?:cyanosis|cyanotic|cianosis|cianotic[oa]|blue lips|lips (?:are |turned )?"
        r"blue|turn(?:ed|ing) blue|labios (?:azules|morados)|se (?:pone|puso) (?:azul|morad[oa])|"
        r"(?:spo2|sao2|saturation|saturacion|sat)(?: de| of| at| is|:)?\s*(?:[5-8]\d)\s?%?)(?!\d)",
        "shock": r"\b(?:in shock|septic shock|shock septico|en shock|choque septico|"
        r"capillary refill (?:of |time )?(?:over|above|>|more than)? ?(?:[3-9]) ?s|"
        r"llenado capilar (?:de |mayor de |mayor a |> ?)?(?:[3-9]) ?s|"
        r"cold (?:hands|extremities)|extremidades frias|pulse is (?:weak|absent)|"
        r"no (?:palpable )?pulse|pulso debil|sin pulso)\b",
        "anaphylaxis": r"\b(?:anaphyla(?:xis|ctic)|anafila(?:xia|ctic[oa])|"
        r"(?:tongue|lips|throat|face) (?:is |are )?swelling|"
        r"(?:se le )?hincha(?:n)? (?:la lengua|los labios|la cara))\b",
        "poisoning": r"\b(?:swallowed|ingested|drank|ingirio|se tomo|(?:se )?trago|bebio)\b"
        r"(?:\W+\w+){0,6}?"
        r"\W+(?:bleach|pesticide|organophosphate|paraquat|kerosene|battery|batteries|pills|tablets|"
        r"poison|detergent|caustic|iron|cloro|lejia|pesticida|organofosforad[oa]s?|kerosene|"
        r"queroseno|querosene|pila|pilas|pastillas|tabletas|veneno|raticida|"
        r"detergente|soda caustica)\b"
        r"|\b(?:overdose|sobredosis|intoxicacion por|poisoned by)\b",
        "bleeding": r"\b(?:(?:bleeding|hemorrhage) (?:that )?(?:will not|won t|does not) stop|"
        r"massive bleeding|bleeding heavily|sangra mucho|sangrado (?:masivo|abundante|que no para)|"
        r"hemorragia masiva|no para de sangrar)\b",
        "non-blanching rash": r"\b(?:non ?-?blanching|purpura|purpuric|petechia(?:e|l)?|petequias?|"
        r"purpuric[oa])\b(?=.{0,120}\b(?:fever|febrile|fiebre|febril)\b)"
        r"|\b(?:fever|febrile|fiebre|febril)\b.{0,120}\b(?:non ?-?blanching|purpura|purpuric[oa]?|"
        r"petechiae|petequias)\b",
        "meningism": r"\b(?:neck stiffness|stiff neck|bulging fontanelle|rigidez de nuca|"
        r"fontanela (?:abombada|abultada|tensa))\b",
        "fever in the first weeks": r"\b(?:newborn|neonate|recien nacid[oa]|neonato|"
        r"(?:[1-9]|1\d|2[0-8])[ -]days?[ -]old|[1-4][ -]weeks?[ -]old|"
        r"(?:[1-9]|1\d|2[0-8]) dias de (?:vida|nacid[oa]|edad)|"
        r"[1-4] semanas de (?:vida|nacid[oa]|edad))"
        r"\b.{0,120}\b(?P<key>fever|febrile|fiebre|febril|3[89][.,]\d|4[01][.,]?\d?)\b",
        "suicide": r"\b(?:wants to die|kill (?:himself|herself|myself)|suicid(?:e|al|io|a|arse)|"
        r"quiere morir(?:se)?|matarse|quitarse la vida)\b",
    }.items()
}
_SELF_DENYING: Final = frozenset({"not able to drink", "not breathing or severe distress"})
"""Signs whose own words are a denial: 'no respira'. The clause before them is not read."""


def emergency_signs(text: str) -> list[str]:
    """Names of the signs that plain text (`phrases.plain`) asserts of someone."""
    if not _SOMEONE.search(text):
        return []
    return [name for name, pattern in SIGNS.items() if _asserted(name, pattern, text)]


def _asserted(name: str, pattern: re.Pattern[str], text: str) -> bool:
    for match in pattern.finditer(text):
        own_denial = name in _SELF_DENYING or match.group().startswith(("no ", "will not", "won t"))
        span = match.span("key") if "key" in pattern.groupindex else match.span()
        if own_denial or is_meant(text, *span):
            return True
    return False
