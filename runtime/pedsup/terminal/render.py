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
from pedsup.texts.screen import Style, Wrapper, screen_of

ThinkView = Literal["shown", "hidden", "off"]
Channel = Literal["reasoning", "answer"]

CLEAR_LINE: Final = "\r\x1b[K"
SLOW_S: Final = 2.0
"""A prompt that takes longer than this shows its progress."""
REDRAW_S: Final = 0.2


class Renderer:
    """Prints the events of a turn: the answer to `out`, everything else to `err`.

    In the interactive session both are the terminal. On a terminal words are wrapped at its width.
    """

    def __init__(self, out: TextIO, err: TextIO, *, view: ThinkView, language: Language) -> None:
        self.out, self.err = screen_of(out), screen_of(err)
        self.view: ThinkView = view
        self.language: Language = language
        self._wrappers = {"answer": Wrapper(self.out.width), "reasoning": Wrapper(self.err.width)}
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
        if not self.err.cursor or now - self._started < SLOW_S or now - self._drawn_at < REDRAW_S:
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
            self._write("reasoning", piece)
        elif self.view == "hidden":
            self._folded += len(piece)
            self._draw_folded(final=False)

    def answer(self, piece: str) -> None:
        self._enter("answer")
        self._write("answer", piece)

    def notice(self, notice: Notice) -> None:
        """Something the reader must be told, on a line of its own."""
        self._leave()
        style: Style = "guard" if notice.code.startswith("guard_") else "warning"
        line = self.err.wrapped(f"[{translated(notice.text, self.language)}]")
        self._raw(self.err.stream, self.err.styled(line, style) + "\n")

    def finish(self) -> None:
        """End the turn on a fresh line, colours off."""
        self._leave()
        self._mode = "none"

    # ---- modes --------------------------------------------------------------------------

    def _enter(self, mode: Channel) -> None:
        if self._mode == mode:
            return
        self._leave()
        self._mode = mode
        self._wrappers[mode].restart()
        if mode == "reasoning":
            self._raw(self.err.stream, self.err.begin("reasoning"))

    def _leave(self) -> None:
        """Close what is being printed so that something else can follow."""
        if self._mode == "progress":
            self._raw(self.err.stream, CLEAR_LINE)
        elif self._mode == "folded":
            self._draw_folded(final=True)
        elif self._mode in ("reasoning", "answer"):
            self._close(self._mode)
        self._mode = "none"

    def _close(self, mode: Channel) -> None:
        rest = self._wrappers[mode].flush()
        at_line_start = self._at_line_start and not rest
        if mode == "reasoning":
            rest += self.err.end()
        self._raw(self._stream(mode), rest if at_line_start else rest + "\n")
        self._at_line_start = True

    def _draw_folded(self, *, final: bool) -> None:
        now = time.monotonic()
        line = translated(message("[reasoning: {n} characters]", n=self._folded), self.language)
        if final:
            self._status(line) if self.err.cursor else self._raw(self.err.stream, line)
            self._raw(self.err.stream, "\n")
            self._folded = 0
            return
        if self._mode == "progress":
            self._leave()
        self._mode = "folded"
        if self.err.cursor and now - self._drawn_at >= REDRAW_S:
            self._drawn_at = now
            self._status(line)

    def _status(self, line: str) -> None:
        width = self.err.width()  # a line that is wrapped could not be cleared
        self._raw(self.err.stream, CLEAR_LINE + self.err.styled(line[:width], "reasoning"))

    def _stream(self, mode: Channel) -> TextIO:
        return (self.out if mode == "answer" else self.err).stream

    def _write(self, mode: Channel, piece: str) -> None:
        if shown := self._wrappers[mode].feed(clean(piece)):
            self._at_line_start = shown.endswith("\n")
            self._raw(self._stream(mode), shown)

    def _raw(self, stream: TextIO, piece: str) -> None:
        stream.write(piece)
        stream.flush()


def terminal_renderer(view: ThinkView, language: Language) -> Renderer:
    """For the interactive session: all on standard output."""
    return Renderer(sys.stdout, sys.stdout, view=view, language=language)


def pipe_renderer(view: ThinkView, language: Language, *, answers: bool) -> Renderer:
    """For one-shot use: standard output carries the answer and nothing else.

    Args:
        answers: False where a JSON document will carry answer and reasoning instead.
    """
    out = sys.stdout if answers else io.StringIO()
    return Renderer(out, sys.stderr, view=view if answers else "off", language=language)
