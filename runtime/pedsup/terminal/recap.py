"""What a resumed conversation shows: its last turns, shortened."""

from __future__ import annotations

from typing import Final

from pedsup.messages import message
from pedsup.session.history import Exchange, Session
from pedsup.texts.intended_use import Language
from pedsup.texts.language import translated
from pedsup.texts.safe import clean

SHOWN_TURNS: Final = 2
MAX_QUESTION: Final = 200
MAX_ANSWER: Final = 600
"""Characters of a turn: two turns fit on a phone's screen."""
MARK: Final = "  > "
"""Indented, so that nobody takes it for the current prompt."""
CUT: Final = " [...]"


def recap(session: Session, language: Language) -> list[str]:
    """Lines for the terminal: the last turns that the model sees, the oldest first.

    A turn that the program's death cut off is shown whole: nobody has read it yet.
    """
    n = len(session.exchanges)
    if n == 0:
        return []
    resumed = (
        message("Resumed session {id} with 1 turn.", id=session.id)
        if n == 1
        else message("Resumed session {id} with {n} turns.", id=session.id, n=n)
    )
    lines = [translated(resumed, language)]
    if any(exchange.picture_notes for exchange in session.exchanges):
        lost = message("Its photos were not kept: the model no longer sees them.")
        lines.append(translated(lost, language))
    shown = [exchange for exchange in session.exchanges if not exchange.forgotten][-SHOWN_TURNS:]
    for exchange in shown:
        if exchange.stop_reason == "killed" and exchange is session.exchanges[-1]:
            lines += _killed(exchange, language)
            continue
        lines.append(MARK + shorten(exchange.user, MAX_QUESTION))
        answer = exchange.answer.strip() or translated(message("(no answer)"), language)
        lines.append(shorten(answer, MAX_ANSWER))
        lines += [f"[{translated(notice, language)}]" for notice in exchange.notices]
    return [clean(line) for line in lines]


def _killed(exchange: Exchange, language: Language) -> list[str]:
    if not exchange.answer and not exchange.reasoning:
        lost = message(
            "Your last question was not answered before the program was killed: {text}",
            text=exchange.user,
        )
        return [translated(lost, language)]
    question = MARK + shorten(exchange.user, MAX_QUESTION)
    cut = message("The last answer was cut off when the program was killed. What was kept of it:")
    return [question, translated(cut, language), exchange.answer or exchange.reasoning]


def shorten(whole: str, limit: int) -> str:
    """At most `limit` characters and a mark, cut between words where there are any."""
    whole = whole.strip()
    if len(whole) <= limit:
        return whole
    head = whole[: limit + 1].rsplit(None, 1)
    return (head[0] if len(head) == 2 else whole[:limit]) + CUT
