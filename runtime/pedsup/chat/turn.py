"""One turn of a conversation: prompt in, reasoning and answer out, as a stream of events."""

from __future__ import annotations

import codecs
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from time import perf_counter
from typing import Final, Literal, TypeAlias

from pedsup.chat.events import Done, StopReason, TurnEvent, TurnResult, TurnSettings, TurnTimings
from pedsup.chat.prompt import build_prompt, single_tokens
from pedsup.chat.templates.template import ChatTemplate, Message
from pedsup.chat.thinking import Channel, ChannelParser
from pedsup.chat.turn_output import TurnOutput
from pedsup.chat.watchdog import Loop, Watchdog
from pedsup.engine.api import NO_DRAFTS, Engine, PromptProgress, SamplingConfig, Token
from pedsup.errors import ContextFullError
from pedsup.messages import message

ANSWER_RESERVE: Final = 256
"""Tokens of the context that reasoning may not take from the answer (at most a quarter)."""
FORCED_TOKENS: Final = 16
"""Tokens drawn without the end tokens when the model ended before it said anything."""

_Exit: TypeAlias = Literal["ended", "stop", "close", "again", "full"]
"""Why one call of `generate` was left: the model's end; the turn's end; the channel must be closed;
sampling must change; no room."""


class Turn:
    """One turn. Iterate `stream()`; `result` is available at any time, even after an interruption.

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
        self._parser = ChannelParser(template.thought, template.stops)
        self._watchdog = Watchdog()
        # A token may end in the middle of a character, the text may not.
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._output = TurnOutput(settings.stop)
        self._tokens: list[int] = []
        self._keep = 0
        self._timings, self._drafts = TurnTimings(), NO_DRAFTS
        self._n_prompt = self._n_cached = self._n_pictures = 0
        self._stop: StopReason = "interrupted"
        self._started = 0.0
        self._forced = self._was_closed = False

    @property
    def result(self) -> TurnResult:
        return TurnResult(
            answer=self._output.text(Channel.ANSWER),
            reasoning=self._output.text(Channel.REASONING),
            n_prompt=self._n_prompt,
            n_cached=self._n_cached,
            n_reasoning=self._output.counts[Channel.REASONING],
            n_answer=self._output.counts[Channel.ANSWER],
            timings=self._timings,
            stop_reason=self._stop,
            notices=tuple(self._output.notices),
            drafts=self._drafts,
            n_pictures=self._n_pictures,
        )

    def stream(self) -> Generator[TurnEvent, None, None]:
        """Generate; yields text as it comes and ends with `Done`.

        Raises:
            ContextFullError: the prompt is longer than the context.
            EngineError: the engine failed; `result` holds what came before.
        """
        self._started = perf_counter()
        think = self._settings.think
        prompt = build_prompt(self._engine, self._template, self._messages, think=think)
        self._tokens, self._keep = list(prompt.tokens), prompt.keep
        self._n_prompt = len(prompt.tokens)
        self._require_room()
        self._open_for_constraint()
        stop: StopReason | None = None
        try:
            while stop is None:
                yield from self._output.drain()
                stop = self._next(left=(yield from self._generate()))
            self._output.emit(self._parser.feed(self._utf8.decode(b"", final=True)))
            self._output.emit(self._parser.flush())
            self._output.finish()
            self._stop = stop
        finally:
            self._timings = replace(self._timings, total_s=perf_counter() - self._started)
        yield from self._output.drain()
        yield Done(self.result)

    def _require_room(self) -> None:
        """The question and at least one token of the answer must fit."""
        if self._n_prompt >= self._engine.n_ctx:
            raise ContextFullError(
                message("the conversation is {n} tokens long with this question", n=self._n_prompt),
                wanted=message("fewer than the context of {n} tokens", n=self._engine.n_ctx),
                remedy="ask a shorter question, start afresh (/reset) or give a larger --ctx",
            )

    def _generate(self) -> Generator[TurnEvent, None, _Exit]:
        """One call of the engine, until a token says that it must be left."""
        room = self._engine.n_ctx - len(self._tokens)
        if room <= 0:
            return "full"
        limit = min(room, FORCED_TOKENS) if self._forced else room
        tokens = self._engine.generate(
            list(self._tokens),
            self._sampling(),
            max_tokens=limit,
            keep=self._keep,
            on_prompt=None if self._timings.first_token_s else self._on_prompt,
        )
        generated = 0
        try:
            with closing(tokens):
                for token in tokens:
                    generated += 1
                    self._note_first_token()
                    left = self._take(token)
                    yield from self._output.drain()
                    if left is not None:
                        return left
        finally:
            self._add_stats()
        if generated < limit:
            return "ended"
        return "again" if limit < room and not self._output.blank else "full"

    def _take(self, token: Token) -> _Exit | None:
        """Note one generated token; says why generation must be left now, if it must."""
        parser, before, closed = self._parser, self._parser.channel, self._parser.closed
        self._tokens.append(token.id)
        if parser.is_marker(token.piece) or not Watchdog.is_unused(token.piece):
            self._output.emit(parser.feed(self._utf8.decode(token.piece)))
        # A marker counts as reasoning, whichever side of it the text is on.
        marker = before is not parser.channel
        self._output.counts[Channel.REASONING if marker else before] += 1
        if parser.stopped:
            self._tokens.pop()
            return "ended"
        if self._output.stop_text.found or self._completion_full():
            return "stop"
        loop = self._watchdog.feed(token.id, token.piece)
        if loop is not None:
            return self._looped(loop)
        if parser.thinking:
            return self._overdue()
        if self._constrained and parser.closed > closed:
            return "again"
        if self._forced and not self._output.blank:
            return "again"
        return "stop" if self._answer_full() else None

    def _next(self, left: _Exit) -> StopReason | None:
        """Prepare the next call of the engine, or say why the turn is over."""
        self._forced = False
        if left == "again":
            return None
        if left == "stop":
            return self._why_stopped()
        if left == "ended" and self._parser.thinking:
            self._output.note("unclosed")
            left = "close"
        if left == "close":
            self._close_channel()
            return None
        if left == "full" and not self._output.blank:
            self._output.note("context")
            return "context"
        if not self._output.blank:
            return "end"
        if left == "ended" and not self._constrained and not self._output.noted("forced_answer"):
            self._output.note("forced_answer")
            self._parser.resume()
            self._forced = True
            return None
        self._output.note("empty")
        return "empty"

    def _why_stopped(self) -> StopReason:
        if self._output.stop_text.found:
            return "end"
        return "length" if self._answer_full() or self._completion_full() else "loop"

    def _overdue(self) -> _Exit | None:
        """Whether the reasoning must be closed now."""
        settings, room = self._settings, self._engine.n_ctx - len(self._tokens)
        reserve = min(ANSWER_RESERVE, (self._engine.n_ctx - self._n_prompt) // 4)
        budget, used = settings.think_budget, self._output.counts[Channel.REASONING]
        if not settings.think:
            self._output.note("unasked_thinking")
        elif budget is not None and used >= budget:
            self._output.note("budget")
        elif room <= reserve:
            self._output.note("context_budget")
        else:
            return None
        return "close"

    def _looped(self, loop: Loop) -> _Exit:
        self._watchdog = Watchdog()
        if self._parser.thinking:
            self._output.note("loop_reasoning")
            return "close"
        self._output.note("loop" if loop == "repetition" else "unused")
        return "stop"

    def _answer_full(self) -> bool:
        limit = self._settings.max_tokens
        return limit is not None and self._output.counts[Channel.ANSWER] >= limit

    def _completion_full(self) -> bool:
        limit = self._settings.max_completion
        return limit is not None and sum(self._output.counts.values()) >= limit

    # ---- channels and constraints -------------------------------------------------------

    @property
    def _constrained(self) -> bool:
        return self._settings.grammar is not None or self._settings.json_schema is not None

    def _sampling(self) -> SamplingConfig:
        """A grammar waits until the reasoning is over; a forced start forbids every end."""
        settings, sampling = self._settings, self._settings.sampling
        if self._constrained and not self._parser.thinking:
            return replace(sampling, grammar=settings.grammar, json_schema=settings.json_schema)
        thought = self._template.thought
        banned = sampling.banned
        if thought and self._was_closed:
            # Else a model that wants to reason would open the channel again and again.
            banned += single_tokens(self._engine, thought.opening)
        if self._forced:
            banned += tuple(sorted(self._engine.info.end_of_generation))
            banned += single_tokens(self._engine, *self._template.stops)
            banned += (
                single_tokens(self._engine, thought.opening, thought.closing) if thought else ()
            )
        return replace(sampling, banned=banned)

    def _open_for_constraint(self) -> None:
        """With a grammar for the answer the channel is opened for the model.

        Else a model that answers at once would answer unconstrained, or could not reason.
        """
        thought = self._template.thought
        if self._constrained and self._settings.think and thought:
            self._inject(thought.opening + thought.header)

    def _close_channel(self) -> None:
        """Write the closing marker for the model, as it would have."""
        thought = self._template.thought
        assert thought is not None, "only a template with a thought channel has reasoning"
        self._parser.resume()
        self._was_closed = True
        self._output.emit(self._parser.feed(self._utf8.decode(b"", final=True)))
        if self._parser.just_opened:
            self._inject(thought.header + thought.closing)
            return
        reasoning = self._output.last(Channel.REASONING)
        self._inject(thought.closing if reasoning.endswith("\n") else "\n" + thought.closing)

    def _inject(self, text: str) -> None:
        self._tokens += self._engine.tokenize(text, parse_special=True)
        self._output.emit(self._parser.feed(text))

    def _note_first_token(self) -> None:
        if not self._timings.first_token_s:
            self._n_cached = self._engine.last_stats.n_cached
            elapsed = perf_counter() - self._started
            self._timings = replace(self._timings, first_token_s=elapsed)

    def _add_stats(self) -> None:
        stats, timings = self._engine.last_stats, self._timings
        self._timings = replace(
            timings,
            prompt_s=timings.prompt_s + stats.prompt_s,
            decode_s=timings.decode_s + stats.decode_s,
            pictures_s=timings.pictures_s + stats.pictures_s,
        )
        self._n_pictures += stats.n_pictures
        self._drafts += stats.drafts
