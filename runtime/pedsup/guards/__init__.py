"""Deterministic guards around the model: emergency signs, doses without a weight.

They are not part of the model and do not change what it says. They read the question and the
answer and put a visible line beside them; the same text gives the same line every time. A guard
that stays silent does not mean that it is safe: it knows a list of phrases in English and Spanish.
"""

from pedsup.guards.check import Finding, check_answer, check_picture, check_question, notices

__all__ = ["Finding", "check_answer", "check_picture", "check_question", "notices"]
