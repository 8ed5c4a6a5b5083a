"""Run one turn: the engine's events to the screen and to the transcript."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Generic, Protocol, TypedDict, TypeVar

from pedsup.chat.events import AnswerText, Done, Notice, ReasoningText, TurnResult, TurnSettings
from pedsup.chat.templates.template import ChatTemplate
from pedsup.chat.turn import Turn
from pedsup.crash.marker import RunMarker
from pedsup.device.interrupts import Interrupts
from pedsup.engine.api import Engine
from pedsup.engine.limits import cannot_see
from pedsup.errors import PedsupError
from pedsup.governor.engine import Governor
from pedsup.guards import Finding, check_answer, check_picture, check_question, notices
from pedsup.pictures.picture import Picture
from pedsup.session.history import Session
from pedsup.session.prefix_cache import PrefixCache, Warmed


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


View = TypeVar("View", bound=TurnView)


@dataclass
class Conversation(Generic[View]):
    """A loaded model, a session and how to show it."""

    engine: Engine
    template: ChatTemplate
    session: Session
    renderer: View
    prefix: PrefixCache | None = None
    """Where the read system prompt is kept; None to read it with each start."""
    marker: RunMarker | None = None
    """Told what is going on, for the start after a kill."""
    governor: Governor | None = None
    """Lowers the engine's threads when the device is hot; its notices come after the answer."""
    warmed: Warmed | None = None
    findings: list[Finding] = field(default_factory=list)
    """What the guards found in the last question and its answer."""
    warm_for: tuple[str, bool] | None = None
    """The system prompt, and whether to reason, that `prefix` was last asked for."""

    def ask(
        self, text: str, settings: TurnSettings, pictures: tuple[Picture, ...] = ()
    ) -> TurnResult:
        """Ask, show the answer as it comes, and return when the turn is on the disk.

        Ctrl-C ends the answer: the result is then partial, with stop reason 'interrupted'.

        Raises:
            UnsupportedError: there are pictures, and the model cannot see; nothing was written.
            PedsupError: the engine refused or died; what came before is in the transcript.
        """
        if pictures and not self.engine.can_see:
            raise cannot_see()
        with self.marker.answering() if self.marker is not None else nullcontext():
            return self._ask(text, settings, pictures)

    def restart_engine(self) -> None:
        """Bring a dead engine back. Raises `EngineError` if that does not help."""
        self.warm_for = None
        self.engine.restart()

    def _ask(self, text: str, settings: TurnSettings, pictures: tuple[Picture, ...]) -> TurnResult:
        interrupts = Interrupts()
        earlier = [m["content"] for m in self.session.messages() if m["role"] == "user"]
        self.findings = []
        self.renderer.start()
        turn: Turn | None = None
        with interrupts.listening():
            try:
                with interrupts.shielded():
                    turn = self._begin(text, settings, pictures)
                    # Before the model: an emergency does not wait for a prompt to be read.
                    self._warn([*check_question(text, earlier), *check_picture(len(pictures))])
                self._warm(think=settings.think)
                self._follow(turn, interrupts)
            except KeyboardInterrupt:
                pass
            except BaseException as error:
                self._give_up(error)
                raise
            assert turn is not None
            self._warn(check_answer(turn.result.answer, text, earlier))
            result = self._with_notices(turn.result)
            # A second Ctrl-C while the turn is being written has nothing left to stop.
            with suppress(KeyboardInterrupt), interrupts.shielded():
                facts = turn_facts(result, self.findings)
                self.session.finish(result.answer, result.reasoning, result.stop_reason, facts)
        self.renderer.finish()
        return result

    def _warn(self, findings: list[Finding]) -> None:
        """Show what the guards found, beside the model's text."""
        self.findings += findings
        for found in notices(findings):
            self.renderer.notice(found)

    def _begin(self, text: str, settings: TurnSettings, pictures: tuple[Picture, ...]) -> Turn:
        self.session.ask(text, pictures)
        return Turn(
            self.engine,
            self.template,
            self.session.messages(),
            settings,
            on_prompt=self.renderer.prompt_progress,
        )

    def _warm(self, *, think: bool) -> None:
        """Have the system prompt in the engine's cache, read or from the disk."""
        wanted = self.session.system, think
        if self.prefix is None or self.warm_for == wanted:
            return
        system = [m for m in self.session.messages() if m["role"] == "system"]
        self.warmed = self.prefix.warm(
            self.engine,
            self.template,
            system,
            think=think,
            on_prompt=self.renderer.prompt_progress,
        )
        self.warm_for = wanted
        if self.warmed.notice is not None:
            self.renderer.notice(self.warmed.notice)

    def _follow(self, turn: Turn, interrupts: Interrupts) -> None:
        with closing(turn.stream()) as stream:
            for event in stream:
                match event:
                    case ReasoningText(text):
                        with interrupts.shielded():
                            self.session.heard(reasoning=text)
                        self.renderer.reasoning(text)
                    case AnswerText(text):
                        with interrupts.shielded():
                            self.session.heard(answer=text)
                        self.renderer.answer(text)
                    case Notice():
                        self.renderer.notice(event)
                    case Done():
                        pass

    def _with_notices(self, result: TurnResult) -> TurnResult:
        """The result with what the governor did meanwhile, told now, and what the guards found."""
        governed = self.governor.notices() if self.governor is not None else ()
        for notice in governed:
            self.renderer.notice(notice)
        every = (*result.notices, *governed, *notices(self.findings))
        return replace(result, notices=every)

    def _give_up(self, error: BaseException) -> None:
        """Keep what there is of an answer that an error ended."""
        found = error.found if isinstance(error, PedsupError) else type(error).__name__
        with suppress(PedsupError):  # the first error is the one to tell
            self.session.abandon(found)
        if not isinstance(error, BrokenPipeError):
            self.renderer.finish()


class TurnFacts(TypedDict):
    """What JSON says of a turn beside its text."""

    tokens: dict[str, int]
    timings: dict[str, float | None]
    drafts: dict[str, int]
    notices: list[dict[str, object]]
    guards: list[dict[str, object]]


def turn_facts(result: TurnResult, findings: Sequence[Finding] = ()) -> TurnFacts:
    """Counts, timings, notices and the guards' findings of a turn, for JSON."""
    timings = asdict(result.timings)
    n_read = result.n_prompt - result.n_cached
    n_written = result.n_reasoning + result.n_answer
    return {
        "tokens": {
            "prompt": result.n_prompt,
            "cached": result.n_cached,
            "pictures": result.n_pictures,
            "reasoning": result.n_reasoning,
            "answer": result.n_answer,
        },
        "timings": {
            **{name: round(seconds, 4) for name, seconds in timings.items()},
            "prompt_tokens_per_s": _rate(n_read, result.timings.prompt_s),
            "decode_tokens_per_s": _rate(n_written, result.timings.decode_s),
        },
        "drafts": {
            "drafted": result.drafts.n_drafted,
            "accepted": result.drafts.n_accepted,
        },
        "notices": [notice.document() for notice in result.notices],
        "guards": [asdict(finding) for finding in findings],
    }


def _rate(count: int, seconds: float) -> float | None:
    return round(count / seconds, 2) if seconds > 0 and count > 0 else None
