"""What a turn has shown so far: texts, counts, notices, and events not yet fetched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pedsup.chat.events import AnswerText, Notice, ReasoningText, TurnEvent
from pedsup.chat.thinking import Channel, Part, open_end
from pedsup.texts.notices import NOTICES


class StopText:
    """Feed it the answer as it comes; what may be the start of a stop text is held back."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self.held = ""
        """Text that may be the start of a stop text."""
        self.found = False

    def feed(self, text: str) -> str:
        """What of the answer can be shown now; nothing after a stop text is."""
        if not self._stops:
            return text
        if self.found:
            return ""
        self.held += text
        starts = [at for stop in self._stops if (at := self.held.find(stop)) >= 0]
        if starts:
            self.found = True
            shown, self.held = self.held[: min(starts)], ""
            return shown
        at = len(self.held) - open_end(self.held, self._stops)
        shown, self.held = self.held[:at], self.held[at:]
        return shown

    def flush(self) -> str:
        """What was held back, at the end of the answer."""
        shown, self.held = self.held, ""
        return shown


class TurnOutput:
    """Takes the parts of a parsed answer; `drain` gives them as events, in order.

    Attributes:
        counts: tokens by channel.
        notices: what a user must know of this turn.
        stop_text: the texts at which the answer ends.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.stop_text = StopText(stops)
        self.counts = dict.fromkeys(Channel, 0)
        self.notices: list[Notice] = []
        self._texts: dict[Channel, list[str]] = {channel: [] for channel in Channel}
        self._pending: list[TurnEvent] = []

    def emit(self, parts: Iterable[Part]) -> None:
        for channel, text in parts:
            answer = channel is Channel.ANSWER
            self._show(channel, self.stop_text.feed(text) if answer else text)

    def finish(self) -> None:
        """Show what was held back because it might have become a stop text."""
        self._show(Channel.ANSWER, self.stop_text.flush())

    def note(self, code: str) -> None:
        notice = Notice(code, NOTICES[code])
        self.notices.append(notice)
        self._pending.append(notice)

    def noted(self, code: str) -> bool:
        return any(notice.code == code for notice in self.notices)

    def drain(self) -> Iterator[TurnEvent]:
        while self._pending:
            yield self._pending.pop(0)

    def text(self, channel: Channel) -> str:
        return "".join(self._texts[channel])

    def last(self, channel: Channel) -> str:
        return "".join(self._texts[channel][-1:])

    @property
    def blank(self) -> bool:
        shown = self._texts[Channel.ANSWER]
        return not any(text.strip() for text in (*shown, self.stop_text.held))

    def _show(self, channel: Channel, text: str) -> None:
        if text:
            self._texts[channel].append(text)
            answer = channel is Channel.ANSWER
            self._pending.append(AnswerText(text) if answer else ReasoningText(text))
