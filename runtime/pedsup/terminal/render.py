"""What a turn looks like on a terminal or in a pipe."""

from __future__ import annotations

import io
import sys
import time
from typing import Final, Literal, TextIO

from pedsup.chat.events import Notice
from pedsup.messages import message
from pedsup.texts.intended_use import Language
from pedsup.texts.language import translated
from pedsup.texts.safe import clean

ThinkView = Literal["shown", "hidden", "off"]

DIM: Final = "\x1b[2m"
PLAIN: Final = "\x1b[0m"
CLEAR_LINE: Final = "\r\x1b[K"
SLOW_S: Final = 2.0
"""A prompt that takes longer than this shows its progress."""
REDRAW_S: Final = 0.2


class Renderer:
    """Prints the events of a turn: the answer to `out`, everything else to `err`.

    In the interactive session both are the terminal.
    """

    def __init__(
        self, out: TextIO, err: TextIO, *, view: ThinkView, language: Language, terminal: bool
    ) -> None:
        self.out, self.err = out, err
        self.view: ThinkView = view
        self.language: Language = language
        self._terminal = terminal
        self.start()

    def start(self) -> None:
        """Forget the last turn."""
        self._started = time.monotonic()
        self._drawn_at = 0.0
        self._mode: Literal["none", "progress", "folded", "reasoning", "answer"] = "none"
        self._at_line_start = True
        self._folded = 0

    def prompt_progress(self, done: int, total: int) -> None:
        """Show how much of a long prompt has been read."""
        now = time.monotonic()
        if not self._terminal or now - self._started < SLOW_S or now - self._drawn_at < REDRAW_S:
            return
        self._drawn_at, self._mode = now, "progress"
        percent = 100 * done // max(total, 1)
        text = message(
            "reading the prompt: {percent} % ({done}/{total})",
            percent=percent,
            done=done,
            total=total,
        )
        self._status(translated(text, self.language))

    def reasoning(self, piece: str) -> None:
        """A piece of the thought channel: dimmed, or folded to a counter."""
        if self.view == "shown":
            self._enter("reasoning")
            self._write(self.err, clean(piece))
        elif self.view == "hidden":
            self._folded += len(piece)
            self._draw_folded(final=False)

    def answer(self, piece: str) -> None:
        """A piece of the answer."""
        self._enter("answer")
        self._write(self.out, clean(piece))

    def notice(self, notice: Notice) -> None:
        """Something the reader must be told, on a line of its own."""
        self._leave()
        self._write(self.err, f"[{translated(notice.text, self.language)}]\n")

    def finish(self) -> None:
        """End the turn on a fresh line, colours off."""
        self._leave()
        self._mode = "none"

    # ---- modes --------------------------------------------------------------------------

    def _enter(self, mode: Literal["reasoning", "answer"]) -> None:
        if self._mode == mode:
            return
        self._leave()
        self._mode = mode
        if mode == "reasoning" and self._terminal:
            self._raw(self.err, DIM)

    def _leave(self) -> None:
        """Close what is being printed so that something else can follow."""
        if self._mode == "progress":
            self._raw(self.err, CLEAR_LINE)
        elif self._mode == "folded":
            self._draw_folded(final=True)
        elif self._mode == "reasoning" and self._terminal:
            self._raw(self.err, PLAIN)
        if self._mode in ("reasoning", "answer") and not self._at_line_start:
            self._write(self.out if self._mode == "answer" else self.err, "\n")
        self._mode = "none"

    def _draw_folded(self, *, final: bool) -> None:
        now = time.monotonic()
        line = translated(message("[reasoning: {n} characters]", n=self._folded), self.language)
        if final:
            self._status(line) if self._terminal else self._raw(self.err, line)
            self._raw(self.err, "\n")
            self._folded = 0
            return
        if self._mode == "progress":
            self._leave()
        self._mode = "folded"
        if self._terminal and now - self._drawn_at >= REDRAW_S:
            self._drawn_at = now
            self._status(line)

    def _status(self, line: str) -> None:
        self._raw(self.err, f"{CLEAR_LINE}{DIM}{line}{PLAIN}")

    def _write(self, stream: TextIO, piece: str) -> None:
        if piece:
            self._at_line_start = piece.endswith("\n")
            self._raw(stream, piece)

    def _raw(self, stream: TextIO, piece: str) -> None:
        stream.write(piece)
        stream.flush()


def terminal_renderer(view: ThinkView, language: Language) -> Renderer:
    """For the interactive session: all on standard output."""
    tty = sys.stdout.isatty()
    return Renderer(sys.stdout, sys.stdout, view=view, language=language, terminal=tty)


def pipe_renderer(view: ThinkView, language: Language, *, answers: bool) -> Renderer:
    """For one-shot use: standard output carries the answer and nothing else.

    Args:
        answers: False where a JSON document will carry answer and reasoning instead.
    """
    out = sys.stdout if answers else io.StringIO()
    tty = sys.stderr.isatty()
    return Renderer(
        out, sys.stderr, view=view if answers else "off", language=language, terminal=tty
    )
