"""Texts about a session that are used in several places."""

from __future__ import annotations

from typing import Final

from pedsup.messages import message

CUT: Final = message(
    "[cut: the token limit was reached; --max-tokens or a larger --ctx gives more]"
)
STILL_THERE: Final = message("The conversation is kept: {id}. Continue with --resume {id}")
