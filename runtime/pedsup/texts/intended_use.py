"""The intended-use text, said in the file, at first run and in each session."""

from __future__ import annotations

from typing import Final, Literal

Language = Literal["en", "es"]

SHORT: Final[dict[Language, str]] = {
    "en": "Research only. Not a medical device. No diagnosis or treatment, no patient-facing use; "
    "a professional reviews every output.",
    "es": "Solo para investigación. No es un dispositivo médico. Ni diagnóstico ni tratamiento, "
    "sin uso ante pacientes; un profesional revisa cada respuesta.",
}

BRIEF: Final[dict[Language, str]] = {
    "en": "Research only, not a medical device. A professional reviews every output.",
    "es": "No es un dispositivo médico: solo para investigar. Un profesional revisa todo.",
}
"""Two lines of 40 columns, for the start of a session, whose user acknowledged the full text."""

FULL: Final[dict[Language, str]] = {
    "en": (
        "This software and the models it exports and runs are for research only.\n"
        "They are not a medical device and have not been assessed by any regulator.\n"
        "- Do not use them to diagnose or to choose a treatment or a dose.\n"
        "- Do not put them, or their output, in front of patients or carers.\n"
        "- A qualified health professional must review every output.\n"
        "- A picture changes none of this: what a model says of one is no finding.\n"
        "- A model can be wrong, invent facts and sound certain. In an emergency follow your\n"
        "  local protocol and call for help."
    ),
    "es": (
        "Este programa y los modelos que exporta y ejecuta son solo para investigación.\n"
        "No son un dispositivo médico y ninguna autoridad sanitaria los ha evaluado.\n"
        "- No los use para diagnosticar ni para elegir un tratamiento o una dosis.\n"
        "- No los muestre, ni sus respuestas, a pacientes o cuidadores.\n"
        "- Un profesional de salud calificado debe revisar cada respuesta.\n"
        "- Una imagen no cambia nada de esto: lo que un modelo diga de ella no es un hallazgo.\n"
        "- Un modelo puede equivocarse, inventar datos y sonar seguro. En una urgencia siga su\n"
        "  protocolo local y pida ayuda."
    ),
}
