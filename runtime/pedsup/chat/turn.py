"""One turn of a conversation: prompt in, reasoning and answer out, as a stream of events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pedsup.chat.template import ChatTemplate, Message
from pedsup.engine.api import Engine, PromptProgress, SamplingConfig

StopReason: TypeAlias = Literal["end", "length", "context", "loop", "interrupted", "empty"]
"""The model ended; `max_tokens`; the context is full; the watchdog; the consumer stopped reading;
the model would not say anything, not even when its end tokens were forbidden."""


@dataclass(frozen=True)
class TurnSettings:
    """How one turn is generated."""

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    think: bool = True
    think_budget: int | None = None
    """Tokens of reasoning after which the channel is closed (None: until the context forbids)."""
    max_tokens: int | None = None
    """Tokens of the answer, without the reasoning (None: to the end of the context)."""
    grammar: str | None = None
    """GBNF for the answer only; see `pedsup.chat.grammar` for JSON schemas."""


@dataclass(frozen=True)
class ReasoningText:
    """A piece of the thought channel, whole characters, no markers."""

    text: str


@dataclass(frozen=True)
class AnswerText:
    """A piece of the answer, whole characters, no markers."""

    text: str


@dataclass(frozen=True)
class Notice:
    """Something the reader must be told: `code` is stable (for i18n), `text` is English."""

    code: str
    text: str


@dataclass(frozen=True)
class TurnTimings:
    """Seconds, monotonic clock."""

    prompt_s: float = 0.0
    decode_s: float = 0.0
    first_token_s: float = 0.0
    total_s: float = 0.0


@dataclass(frozen=True)
class TurnResult:
    """What a turn came to. Valid (partial) when the turn was interrupted too."""

    answer: str
    reasoning: str
    n_prompt: int
    n_cached: int
    """Tokens of the prompt that were not read again."""
    n_reasoning: int
    n_answer: int
    timings: TurnTimings
    stop_reason: StopReason
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True)
class Done:
    """The last event of every turn that was not interrupted."""

    result: TurnResult


TurnEvent: TypeAlias = ReasoningText | AnswerText | Notice | Done


class Turn:
    """One turn. Iterate `stream()`; `result` is there at any time, also after an interruption.

    To stop early (Ctrl-C), close the iterator or let the exception pass through it: the
    engine stays usable and `result.stop_reason` is 'interrupted'.
    """

    def __init__(
        self,
        engine: Engine,
        template: ChatTemplate,
        messages: Sequence[Message],
        settings: TurnSettings,
        *,
        on_prompt: PromptProgress | None = None,
    ) -> None:
        self._engine, self._template = engine, template
        self._messages, self._settings, self._on_prompt = messages, settings, on_prompt

    @property
    def result(self) -> TurnResult:
        """The result so far."""
        raise NotImplementedError

    def stream(self) -> Iterator[TurnEvent]:
        """Generate; yields text as it comes and ends with `Done`."""
        raise NotImplementedError
