"""The words of the interactive session, in English and Spanish."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pedsup.texts.intended_use import Language

_TEXTS: Final[dict[str, dict[Language, str]]] = {
    "ready": {
        "en": "Ready. /help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves.",
        "es": "Listo. /help muestra los comandos; Ctrl-C detiene una respuesta, Ctrl-D sale.",
    },
    "help": {
        "en": (
            "/help                     this list\n"
            "/think on|off             reason before answering, or answer at once\n"
            "/think shown|hidden       show the reasoning, or fold it to a counter\n"
            "/budget N|none            tokens of reasoning before the answer must begin\n"
            "/reasoning                print the reasoning of the last answer\n"
            "/system [TEXT]            show or set the system prompt\n"
            "/reset                    start afresh (the transcript keeps everything)\n"
            "/save [FILE]              write the conversation to a file (.md or .jsonl)\n"
            "/stats                    tokens, speed and memory\n"
            "/lang en|es               language of these messages\n"
            "/quit                     leave\n"
            'Several lines: begin and end with """, or end a line with a backslash.'
        ),
        "es": (
            "/help                     esta lista\n"
            "/think on|off             razonar antes de responder, o responder enseguida\n"
            "/think shown|hidden       mostrar el razonamiento, o plegarlo en un contador\n"
            "/budget N|none            tokens de razonamiento antes de que deba responder\n"
            "/reasoning                mostrar el razonamiento de la última respuesta\n"
            "/system [TEXTO]           ver o cambiar las instrucciones del sistema\n"
            "/reset                    empezar de nuevo (la transcripción lo conserva todo)\n"
            "/save [ARCHIVO]           guardar la conversación (.md o .jsonl)\n"
            "/stats                    tokens, velocidad y memoria\n"
            "/lang en|es               idioma de estos mensajes\n"
            "/quit                     salir\n"
            'Varias líneas: empiece y termine con """, o termine la línea con una barra invertida.'
        ),
    },
    "stopped": {"en": "[stopped]", "es": "[detenido]"},
    "cut": {
        "en": "[cut: the limit of tokens was reached; --max-tokens or a larger --ctx gives more]",
        "es": "[cortada: se alcanzó el límite de tokens; --max-tokens o un --ctx mayor dan más]",
    },
    "leave_hint": {"en": "(Ctrl-D or /quit leaves)", "es": "(Ctrl-D o /quit para salir)"},
    "goodbye": {"en": "Session {id} is kept.", "es": "La sesión {id} queda guardada."},
    "resumed": {
        "en": "Resumed session {id} with {n} turns.",
        "es": "Sesión {id} reanudada, con {n} turnos.",
    },
    "killed": {
        "en": "The last answer was cut off when the program died; this is what was kept of it:",
        "es": "La última respuesta se cortó al morir el programa; esto es lo que se conservó:",
    },
    "no_answer": {"en": "(no answer)", "es": "(sin respuesta)"},
    "unanswered": {
        "en": "Your last question was not answered before the program died: {text}",
        "es": "Su última pregunta quedó sin respuesta al morir el programa: {text}",
    },
    "sudden_end": {
        "en": "The last run ended suddenly while {phase} ({model}, {time}).",
        "es": "La última ejecución terminó de golpe mientras {phase} ({model}, {time}).",
    },
    "phase_loading": {"en": "loading the model", "es": "cargaba el modelo"},
    "phase_ready": {"en": "waiting for a question", "es": "esperaba una pregunta"},
    "phase_answering": {"en": "answering", "es": "respondía"},
    "cause_restart": {
        "en": "The device was started anew since: its battery ran empty, or it was restarted.",
        "es": "El dispositivo se ha reiniciado desde entonces, o se quedó sin batería.",
    },
    "cause_crash": {
        "en": "It crashed in native code: {crash}.",
        "es": "Falló dentro del código nativo: {crash}.",
    },
    "cause_oom": {
        "en": "The kernel has killed for lack of memory since then: most likely this program.",
        "es": "El núcleo ha matado procesos por falta de memoria: muy probablemente este.",
    },
    "cause_memory": {
        "en": "Most likely the system took the memory back (signal 9, the low-memory killer): "
        "little was left.",
        "es": "Lo más probable es que el sistema recuperara la memoria (señal 9): quedaba poca.",
    },
    "cause_killed": {
        "en": "It was killed from outside (signal 9). Android ends apps in the background to save "
        "memory or battery: keep Termux in front, or hold it with termux-wake-lock.",
        "es": "Algo lo mató desde fuera (señal 9). Android cierra aplicaciones en segundo plano "
        "por memoria o batería: deje Termux delante, o sujételo con termux-wake-lock.",
    },
    "remedy": {"en": "What helps: {text}.", "es": "Qué ayuda: {text}."},
    "close_apps": {"en": "close other apps", "es": "cerrar otras aplicaciones"},
    "smaller_model": {
        "en": "a smaller file (E2B, or Q4_0: pedsup-export plan --phone)",
        "es": "un archivo menor (E2B, o Q4_0: pedsup-export plan --phone)",
    },
    "resume_with": {
        "en": "To go on where it ended: pedsup-run --resume {id}",
        "es": "Para seguir donde se quedó: pedsup-run --resume {id}",
    },
    "engine_gone": {
        "en": "The conversation is kept. Your next question starts the model again.",
        "es": "La conversación se conserva. Su próxima pregunta arranca el modelo de nuevo.",
    },
    "engine_again": {
        "en": "[starting the model again]",
        "es": "[arrancando el modelo de nuevo]",
    },
    "reset_done": {
        "en": "The conversation starts afresh.",
        "es": "La conversación empieza de nuevo.",
    },
    "saved": {"en": "Saved: {path}", "es": "Guardado: {path}"},
    "system_is": {"en": "System prompt: {text}", "es": "Instrucciones del sistema: {text}"},
    "none": {"en": "(none)", "es": "(no hay)"},
    "think_is": {"en": "Reasoning: {text}", "es": "Razonamiento: {text}"},
    "no_thinking": {
        "en": "This model has no reasoning channel.",
        "es": "Este modelo no tiene canal de razonamiento.",
    },
    "no_reasoning": {
        "en": "The last answer has no reasoning.",
        "es": "La última respuesta no tiene razonamiento.",
    },
    "budget_is": {"en": "Reasoning budget: {text}", "es": "Presupuesto de razonamiento: {text}"},
    "lang_is": {"en": "Messages are in English.", "es": "Los mensajes están en español."},
    "bad_command": {
        "en": "No such command: {text}. /help lists them.",
        "es": "No existe ese comando: {text}. /help los muestra.",
    },
    "bad_argument": {"en": "{command} takes: {text}", "es": "{command} admite: {text}"},
    "thinking": {"en": "reasoning", "es": "razonamiento"},
    "characters": {"en": "characters", "es": "caracteres"},
    "reading": {"en": "reading the prompt", "es": "leyendo la pregunta"},
    "no_stats": {"en": "Nothing was asked yet.", "es": "Aún no se ha preguntado nada."},
    "trust_signed": {"en": "Signed by {name}.", "es": "Firmado por {name}."},
    "trust_unsigned": {
        "en": "WARNING: this model is not signed: nobody vouches for where it comes from.",
        "es": "ATENCIÓN: este modelo no está firmado: nadie responde de su procedencia.",
    },
    "trust_unknown_key": {
        "en": "WARNING: this model is signed by a key that is not trusted here ({hint}); the "
        "signature cannot be checked (pedsup-run trust add KEY.pub).",
        "es": "ATENCIÓN: este modelo está firmado con una clave en la que no se confía aquí "
        "({hint}); la firma no se puede comprobar (pedsup-run trust add CLAVE.pub).",
    },
    "trust_by_adapter": {
        "en": "Named by its digest in the adapter that {name} signed.",
        "es": "Nombrado por su huella en el adaptador que firmó {name}.",
    },
    "trust_adapter": {
        "en": "Its adapter, {name}:",
        "es": "Su adaptador, {name}:",
    },
    "trust_unbound": {
        "en": "WARNING: nothing says that this adapter was made for this model.",
        "es": "ATENCIÓN: nada dice que este adaptador se haya hecho para este modelo.",
    },
    "trust_drafter": {
        "en": "Its draft model, {name}:",
        "es": "Su modelo borrador, {name}:",
    },
    "trust_weights_unread": {
        "en": "Its bytes are compared before it is loaded.",
        "es": "Sus bytes se comparan antes de cargarlo.",
    },
    "trust_weights_read": {
        "en": "All its bytes were read and are as exported.",
        "es": "Se han leído todos sus bytes y son los exportados.",
    },
    "trust_weights_earlier": {
        "en": "It was read in full earlier and has not changed since.",
        "es": "Se leyó entero antes y no ha cambiado desde entonces.",
    },
    "trust_weights_nothing-to-compare": {
        "en": "It has no manifest: nothing says what its bytes should be.",
        "es": "No tiene manifiesto: nada dice cómo deberían ser sus bytes.",
    },
    "still_there": {
        "en": "The conversation is kept: {id}. Continue with --resume {id}",
        "es": "La conversación se conserva: {id}. Continúe con --resume {id}",
    },
    "serve_page": {
        "en": "The page, for this device only (Ctrl-C ends): {url}",
        "es": "La página, solo para este dispositivo (Ctrl-C termina): {url}",
    },
    "serve_termux": {
        "en": "Open it with: termux-open-url '{url}'",
        "es": "Ábrala con: termux-open-url '{url}'",
    },
    "serve_api": {
        "en": "For programs, OpenAI's protocol: base URL {base}, key {token}",
        "es": "Para programas, protocolo de OpenAI: URL base {base}, clave {token}",
    },
}


def text(key: str, language: Language, **values: object) -> str:
    """One message with its values filled in."""
    return _TEXTS[key][language].format(**values)


def pairs() -> Iterator[tuple[str, str]]:
    """Every text here in English and in Spanish."""
    for texts in _TEXTS.values():
        yield texts["en"], texts["es"]
