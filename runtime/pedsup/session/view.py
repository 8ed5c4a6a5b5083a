"""Whoever shows a turn while it comes."""

from __future__ import annotations

from typing import Protocol

from pedsup.chat.events import Notice


class TurnView(Protocol):
    """Whoever shows a turn: a terminal, a pipe, or a page."""

    def start(self) -> None:
        """A turn begins."""

    def prompt_progress(self, done: int, total: int) -> None:
        """So many tokens of the prompt have been read."""

    def reasoning(self, piece: str) -> None:
        """A piece of the thought channel."""

    def answer(self, piece: str) -> None:
        """A piece of the answer."""

    def notice(self, notice: Notice) -> None:
        """Something the reader must be told."""

    def finish(self) -> None:
        """The turn is over, and on the disk where there is a transcript."""
