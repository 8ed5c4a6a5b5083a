"""Deterministic guards around the model: emergency signs, doses without a weight.

They are not part of the model and do not change what it says. They read the question and the
answer and put a visible line beside them; the same text gives the same line every time. A guard
that stays silent does not mean that it is safe: it knows a list of phrases in English and Spanish.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pedsup.chat.events import Notice
from pedsup.guards.dose import absolute_doses, asks_for_a_dose, has_weight
from pedsup.guards.emergency import emergency_signs
from pedsup.guards.phrases import plain
from pedsup.texts.notices import GUARDS, GuardCode


@dataclass(frozen=True)
class Finding:
    """One guard that spoke, and the words or signs that made it."""

    code: GuardCode
    because: tuple[str, ...]


def check_question(question: str, earlier: Sequence[str] = ()) -> list[Finding]:
    """Guards of a question; `earlier` messages of the user may give the weight."""
    text = plain(question)
    found = []
    if signs := emergency_signs(text):
        found.append(Finding("guard_emergency", tuple(signs)))
    if asks_for_a_dose(text) and not _weight_known(question, earlier):
        found.append(Finding("guard_dose_no_weight", ()))
    return found


def check_answer(answer: str, question: str, earlier: Sequence[str] = ()) -> list[Finding]:
    """Guards of an answer to `question`."""
    if _weight_known(question, earlier):
        return []
    doses = absolute_doses(plain(answer))
    return [Finding("guard_dose_in_answer", tuple(doses[:5]))] if doses else []


def check_picture(n: int) -> list[Finding]:
    """What is said whenever pictures, so many of them, come with a question."""
    return [Finding("guard_picture", ())] if n else []


def notices(findings: Sequence[Finding]) -> list[Notice]:
    return [Notice(finding.code, GUARDS[finding.code]) for finding in findings]


def _weight_known(question: str, earlier: Sequence[str]) -> bool:
    return any(has_weight(plain(text)) for text in (*earlier, question))
