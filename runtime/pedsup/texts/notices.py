"""What is said beside an answer, by code: notices, guard lines, and how an answer ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from pedsup.messages import Message, from_document, message

GuardCode = Literal[
    "guard_emergency", "guard_dose_no_weight", "guard_dose_in_answer", "guard_picture"
]

NOTICES: Final[dict[str, Message]] = {
    # of a turn
    "budget": message("the reasoning reached its budget and was closed"),
    "context_budget": message("the reasoning was closed so that the answer fits into the context"),
    "unasked_thinking": message(
        "the model began to reason although reasoning is off; it was stopped"
    ),
    "unclosed": message("the model ended inside its reasoning; it was asked for the answer"),
    "forced_answer": message("the model ended without an answer; it was made to continue"),
    "loop_reasoning": message("the reasoning kept repeating itself and was closed"),
    "loop": message("the answer kept repeating itself and was stopped"),
    "unused": message(
        "the model wrote only placeholder tokens and was stopped: the file may be damaged"
    ),
    "context": message("the context is full: the answer is cut off"),
    "empty": message("the model gave no answer"),
    # of the prefix cache
    "cache_damaged": message(
        "the saved state of the system prompt was damaged and has been made again"
    ),
    "cache_unwritable": message("the state of the system prompt cannot be saved: {reason}"),
    # of the governor
    "governor_lower": message(
        "decoding slowed down although nothing else is running: the device is getting hot, so "
        "fewer threads are used (/stats)"
    ),
    "governor_restore": message("more threads are used again (/stats)"),
    "governor_report": message(
        "decoding slowed down although nothing else is running: the device is getting hot; "
        "llama-server cannot change its threads, so give a lower --threads next time (/stats)"
    ),
}
"""Every notice."""
GUARDS: Final[dict[GuardCode, Message]] = {
    "guard_emergency": message(
        "the question names a danger sign: this program is not for emergencies; follow your local "
        "protocol and call for help now"
    ),
    "guard_dose_no_weight": message(
        "the question asks for a dose and gives no weight: no dose for a child without a weight; "
        "check any figure against your formulary"
    ),
    "guard_dose_in_answer": message(
        "the answer names an amount to give, and no weight was given: do not use it; work out the "
        "dose from the weight and your formulary"
    ),
    "guard_picture": message(
        "a picture changes nothing: no diagnosis comes from it; look at the patient yourself and "
        "review the answer"
    ),
}
"""Every guard's line. They are shown beside the model's text, never in it."""
ALL: Final[dict[str, Message]] = {**NOTICES, **dict(GUARDS.items())}
STOPS: Final[dict[str, Message]] = {
    "end": message("complete"),
    "length": message("token limit"),
    "context": message("context full"),
    "loop": message("repeated itself"),
    "interrupted": message("interrupted"),
    "empty": message("empty"),
    "killed": message("cut off when the program was killed"),
    "failed": message("failed"),
}
"""How an answer ended, by its stop reason."""

CUT: Final = message(
    "[cut: the token limit was reached; --max-tokens or a larger --ctx gives more]"
)
STILL_THERE: Final = message("The conversation is kept: {id}. Continue with --resume {id}")


def kept_notice(row: Mapping[str, object]) -> Message | None:
    """A notice that a transcript keeps: its code, its English text, mostly its id and values.

    A code says more than a text, whose wording may have changed since.
    """
    code, text = row.get("code"), row.get("text")
    known = ALL.get(code) if isinstance(code, str) else None
    if known is not None and "{" not in known.msgid:
        return known
    return from_document(row) or (Message(text) if isinstance(text, str) else None)
