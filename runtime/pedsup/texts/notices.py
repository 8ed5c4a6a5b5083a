"""Notices and guard lines: what is said beside an answer, by code, in English and Spanish."""

from __future__ import annotations

from typing import Final, Literal

from pedsup.texts.intended_use import Language

GuardCode = Literal["guard_emergency", "guard_dose_no_weight", "guard_dose_in_answer"]

NOTICES: Final = {
    # of a turn
    "budget": "the reasoning reached its budget and was closed",
    "context_budget": "the reasoning was closed, so that the answer fits into the context",
    "unasked_thinking": "the model began to reason although reasoning is off; it was stopped",
    "unclosed": "the model ended inside its reasoning; it was asked for the answer",
    "forced_answer": "the model ended without an answer; it was made to go on",
    "loop_reasoning": "the reasoning went in circles and was closed",
    "loop": "the answer went in circles and was stopped",
    "unused": "the model wrote only placeholder tokens and was stopped: the file may be damaged",
    "context": "the context is full: the answer is cut off",
    "empty": "the model gave no answer",
    # of the prefix cache
    "cache_damaged": "the saved state of the system prompt was damaged and has been made again",
    "cache_unwritable": "the state of the system prompt cannot be saved",
    # of the governor
    "governor_lower": "decoding slowed down although nothing else runs: the device is getting hot, "
    "fewer threads are used (/stats)",
    "governor_restore": "more threads are used again (/stats)",
    "governor_report": "decoding slowed down although nothing else runs: the device is getting "
    "hot; llama-server cannot change its threads, give fewer --threads next time (/stats)",
}
"""Every notice's code and its English text."""
GUARDS: Final[dict[GuardCode, str]] = {
    "guard_emergency": "an emergency sign is in the question: this program is not for emergencies; "
    "follow your local protocol and call for help now",
    "guard_dose_no_weight": "a dose is asked for and no weight is given: no dose for a child "
    "without a weight; check any figure against your formulary",
    "guard_dose_in_answer": "the answer names an amount to give and no weight was given: do not "
    "use it; work out the dose from the weight and your formulary",
}
"""Every guard's code and its English line. They stand beside the model's text, never in it."""
NOTICES_ES: Final[dict[str, str]] = {
    "budget": "el razonamiento agotó su presupuesto y se cerró",
    "context_budget": "el razonamiento se cerró para que la respuesta quepa en el contexto",
    "unasked_thinking": "el modelo empezó a razonar sin que se le pidiera; se le detuvo",
    "unclosed": "el modelo terminó dentro del razonamiento; se le pidió la respuesta",
    "forced_answer": "el modelo terminó sin responder; se le hizo continuar",
    "loop_reasoning": "el razonamiento daba vueltas y se cerró",
    "loop": "la respuesta daba vueltas y se detuvo",
    "unused": "el modelo solo escribía tokens vacíos y se detuvo: el archivo puede estar dañado",
    "context": "el contexto está lleno: la respuesta queda cortada",
    "empty": "el modelo no dio ninguna respuesta",
    "guard_emergency": "la pregunta contiene un signo de urgencia: este programa no es para "
    "urgencias; siga su protocolo local y pida ayuda ya",
    "guard_dose_no_weight": "se pide una dosis y no se da el peso: ninguna dosis para un niño sin "
    "su peso; compruebe cualquier cifra en su formulario terapéutico",
    "guard_dose_in_answer": "la respuesta nombra una cantidad que dar y no se dio el peso: no la "
    "use; calcule la dosis con el peso y su formulario terapéutico",
    "cache_damaged": "las instrucciones guardadas estaban dañadas y se han vuelto a leer",
    "governor_lower": "la generación se hizo lenta sin que nada más se ejecute: el dispositivo se "
    "calienta y se usan menos hilos (/stats)",
    "governor_restore": "se usan más hilos otra vez (/stats)",
    "governor_report": "la generación se hizo lenta sin que nada más se ejecute: el dispositivo se "
    "calienta; llama-server no puede cambiar sus hilos, use menos --threads otra vez (/stats)",
    "cache_unwritable": "las instrucciones leídas no se pueden guardar",
}
"""The Spanish text of every notice and guard line."""


def notice(code: str, english: str, language: Language) -> str:
    """A notice of a turn in the user's language, in English where there is no translation."""
    return NOTICES_ES.get(code, english) if language == "es" else english


def kept_notice(english: str, language: Language) -> str:
    """`notice` for one that a transcript kept, which has the English text only."""
    if language == "en":
        return english
    for code, known in (*NOTICES.items(), *GUARDS.items()):
        if english == known:
            return notice(code, english, language)
    return english
