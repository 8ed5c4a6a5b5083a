"""What a turn is given and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pedsup.engine.api import NO_DRAFTS, DraftStats, SamplingConfig
from pedsup.messages import Message

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
    """GBNF for the answer only."""
    json_schema: str | None = None
    """A JSON schema, as text, for the answer only."""
    max_completion: int | None = None
    """Tokens of reasoning and answer together (None: to the end of the context)."""
    stop: tuple[str, ...] = ()
    """Texts at which the answer ends; they are not part of it."""


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
    """Something the reader must be told: `code` is a key of `NOTICES` or `GUARDS`."""

    code: str
    text: Message

    def document(self) -> dict[str, object]:
        """For JSON and transcripts: the English text, and what it was made from."""
        return {"code": self.code, "text": self.text, **self.text.document()}


@dataclass(frozen=True)
class TurnTimings:
    """Seconds, monotonic clock."""

    prompt_s: float = 0.0
    decode_s: float = 0.0
    pictures_s: float = 0.0
    """Of `prompt_s`, what pictures took; 0 where the engine does not tell."""
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
    drafts: DraftStats = NO_DRAFTS
    n_pictures: int = 0
    """Of the prompt tokens that were read, those of pictures."""


@dataclass(frozen=True)
class Done:
    """The last event of every turn that was not interrupted."""

    result: TurnResult


TurnEvent: TypeAlias = ReasoningText | AnswerText | Notice | Done
