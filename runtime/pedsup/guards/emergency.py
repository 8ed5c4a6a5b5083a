"""Signs in a question that call for help now, not for a language model.

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
    r"preescolar|adolescente|menor|chic[oa]|nen[ea]|chiquit[oa])"
)
_SOMEONE: Final = re.compile(
    rf"\b(?:my|this|the|our|mi|este|esta|el|al|del|la|nuestr[oa])\s+(?:\w+\s+){{0,3}}?{_CHILD}\b"
    r"|\b\d+\s*[- ]?\s*(?:years?|months?|weeks?|days?|hours?|y(?:/?o)?|mo|anos?|mes(?:es)?|"
    r"semanas?|dias?|horas?)\b|\b\d+ ?a(?=$|[,.;)])"
    r"|\b(?:he|she|ella|right now|at this moment|just now|ahora|ahorita|en este momento|acaba de|"
    r"lo traen|la traen|llega)\b"
    rf"|\b(?:i have|i ve got|tengo|tenemos)\s+(?:\w+\s+){{0,3}}?{_CHILD}\b"
    r"|\b(?:what (?:do|should) i do|que hago|que hacemos|(?:le|les) (?:doy|damos|pongo|ponemos)|"
    r"esta convulsionando)\b"
    rf"|(?:^|[.!?\n])[\s\u00bf\u00a1]*{_CHILD}\b"
    rf"|\b(?:a|an|un|una)\s+(?:\w+\s+){{0,3}}?{_CHILD}\s+(?:who\s+|que\s+)?"
    r"(?:is|has|had|can|cannot|came|presents|esta|tiene|presenta|no puede|llego|ingreso)\b"
    r"|\b(?:(?:alarm|danger|warning) signs?|red flags?|signs? of danger|"
    r"signos? de (?:alarma|peligro|gravedad)|banderas rojas)\b[^.?!\n]{0,60}?"
    rf"\b(?:a|an|un|una)\s+(?:\w+\s+){{0,3}}?{_CHILD}\s+(?:\w+\s+){{0,3}}?"
    r"(?:with|who|con|que)\b"
)
"""The question is about someone, not from a textbook: a definite child, an age, 'now', a verb, a
sentence that begins with the child, the asker who has to act, or what would alarm in such a child:
whoever asks that may have one before them, whose sign is the alarm."""

_TOXIC: Final = (
    r"(?:bleach|pesticide|organophosphate|paraquat|kerosene|battery|batteries|poison|detergent|"
    r"caustic|antifreeze|rat poison|cloro|lejia|lavandina|pesticida|insecticida|"
    r"organofosforad[oa]s?|queroseno|querosene|pila|pilas|veneno|raticida|detergente|soda caustica)"
)
_PILLS: Final = (
    r"(?:pills|tablets|iron (?:tablets?|pills?|syrup)|pastillas|tabletas|comprimidos|capsul\w+)"
)

SIGNS: Final[dict[str, re.Pattern[str]]] = {
    name: re.compile(pattern)
    for name, pattern in {
        "convulsions": r"\b(?:convuls(?:ion|ions|ing|ed|iones|ionando|ionad[oa]|ionar|iona|iono)|"
        r"seizures?|seizing|(?:is|was|been|still|keeps|started|baby|child|boy|girl|son|daughter) "
        r"fitting\b(?! in\b)|(?:having|has|had|with) (?:a )?fits?|fits since|"
        r"status epilepticus|estado epileptico)\b",
        "unconscious or lethargic": r"\b(?:unconscious|unresponsive|lethargic|letargic[oa]|"
        r"inconsciente|unarousable|(?:is|was|went|gone) limp|no reacciona|sigue sin responder|"
        r"no responde(?! (?:a|al) (?:l\w+ |el )?(?:antibio|trata|parace|ibupro|antipi|medic|salbu"
        r"|nebul))|(?:gcs|glasgow)(?: (?:score|coma scale))?\W{0,3}(?:(?:of|is|de|en) )?"
        r"(?:[3-9]|1[0-2])(?![\d-])|does not wake|will not wake|won t wake|cannot be woken|"
        r"no (?:se )?despierta|floppy|comatose|comatos[oa]|coma|flacid[oa])\b",
        "not able to drink": r"\b(?:(?:cannot|can t|unable to|not able to|won t) "
        r"(?:drink|breastfeed|feed|suck)|no puede (?:beber|mamar|lactar|tomar)|"
        r"no (?:bebe|mama|lacta|succiona)(?: nada)?(?=[\s,.;]|$)|"
        r"no (?:quiere mamar|acepta liquidos|tolera (?:nada|liquidos|(?:la )?via oral))|"
        r"rechaza todo|refuses all (?:feeds|fluids))",
        "vomits everything": r"\b(?:vomit(?:s|ing)? everything|vomita todo|todo lo vomita|"
        r"throw(?:s|ing) up everything|vomitando todo|"
        r"vomits? all (?:feeds|fluids))\b",
        "not breathing or severe distress": r"\b(?:not breathing|isn t breathing|"
        r"stopped breathing|no longer breathing|(?:cannot|can t) breathe|no esta respirando|"
        r"no puede respirar|apn(?:o)?eas?|"
        r"gasping|no respira|dejo de respirar|deja de respirar|"
        r"stridor at rest|estridor en reposo|choking|atragantad[oa]|se ahoga|"
        r"severe (?:chest |subcostal )?(?:indrawing|retractions|respiratory distress)|"
        r"tiraje (?:subcostal |intercostal )?(?:grave|severo|marcado)|"
        r"dificultad respiratoria (?:grave|severa)|grunting|quejido)\b",
        "cyanosis": r"\b(?:cyanosis|cyanotic|cianosis|cianotic[oa]|blue lips|lips (?:are |turned )?"
        r"blue|turn(?:ed|ing) blue|labios (?:azules|morados)|se (?:pone|puso) (?:azul|morad[oa])|"
        rf"{_CHILD}(?: is| looks?| went| has gone)? (?:all |very )?blue|"
        rf"{_CHILD} (?:\w+ ){{0,3}}?(?:esta|luce|se ve|quedo|llego) (?:muy |tod[oa] )?"
        r"(?:azul(?:ad[oa])?|morad[oa])|"
        r"(?:sp?o2|sao2|sato2|saturation|saturacion|satura(?:ndo)?|sats?)"
        r"(?: (?:o2|de|of|at|is|was|al|en))*\W{0,3}(?:[5-8]\d)\s?%?)(?![\d-])",
        "shock": r"\b(?:in shock|septic shock|shock septico|en shock|choque septico|"
        r"(?:cap(?:illary)?\.? refill|crt|(?:llen(?:ado|e)|relleno) capilar)"
        r"(?: (?:time|of|is|over|above|more than|de|mayor(?: de| a)?|en))*\W{0,3}"
        r"(?:[3-9]|1\d) ?s(?:ec\w*|eg\w*)?|"
        r"cold (?:and clammy|extremities|peripheries|hands and feet)|extremidades frias|"
        r"pulse is (?:weak|absent)|"
        r"no (?:palpable )?pulse|pulso debil|sin pulso)\b",
        "anaphylaxis": r"\b(?:anaphyla(?:xis|ctic)|anafila(?:xia|ctic[oa])|"
        r"(?:tongue|lips|throat|face) (?:is |are )?swelling|"
        r"swollen (?:tongue|lips|throat)|(?:lengua|labios) (?:hinchad|inflamad)[oa]s?|"
        r"edema de (?:labios|lengua|glotis)|"
        r"(?:se le )?hincha(?:n)? (?:la lengua|los labios|la cara))\b",
        "poisoning": r"\b(?:swallowed|ingested|drank|drunk|ate|took|ingirio|tomo|(?:se )?trago|"
        rf"bebio|comio)\b(?:\W+\w+){{0,4}}?\W+{_TOXIC}\b"
        rf"|\b(?:swallowed|ingested|ingirio|se tomo|(?:se )?trago)\b(?:\W+\w+){{0,4}}?\W+{_PILLS}\b"
        r"(?!\W+(?:as (?:prescribed|directed|instructed)|como (?:se )?(?:le )?indic))"
        rf"|\b(?:took|taken|tomo|tomado)\W+(?:\w+\W+){{0,2}}?[1-9]\d\W+(?:\w+\W+){{0,2}}?{_PILLS}\b"
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
        r"rn (?:de|con|a termino|pretermino|masculino|femenino)|"
        r"(?:[1-9]|1\d|2[0-8])[ -]days?[ -]old|[1-4][ -]weeks?[ -]old|"
        r"(?:[1-9]|1\d|2[0-8]) dias de (?:vida|nacid[oa]|edad)|"
        r"[1-4] semanas de (?:vida|nacid[oa]|edad))"
        r"\b.{0,120}\b(?P<key>fever|febrile|fiebre|febril|"
        r"t(?:emp(?:erature|eratura)?)?\b\W{0,3}(?:(?:of|is|de|a) )?(?:3[89]|4[01])(?!\d)|"
        r"3[89][.,]\d|4[01][.,]?\d?)\b",
        "suicide": r"\b(?:wants to die|kill (?:himself|herself|myself)|suicid(?:e|al|io|a|arse)|"
        r"quiere morir(?:se)?|se quiere (?:morir|matar)|no quiere vivir|"
        r"does(?:n t| not) want to live|want(?:s)? to die|end (?:his|her|my) life|"
        r"matarse|quitarse la vida)\b",
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
