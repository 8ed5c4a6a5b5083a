"""What is asked of `llama-server`'s `/completion`, and what its events say. No connection here.

Another version of the server may leave a field of an event out: each has a fallback.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from pedsup.engine.api import (
    NO_DRAFTS,
    DraftStats,
    GenerationStats,
    PromptProgress,
    SamplingConfig,
    Token,
)
from pedsup.engine.limits import no_number
from pedsup.engine.sampler import PENALTY_WINDOW, check_sampling

SAMPLERS: Final = ["penalties", "top_k", "top_p", "min_p", "temperature"]

Event = dict[str, object]
"""One event of the server's stream."""


def completion_request(
    prompt: object, sampling: SamplingConfig, max_tokens: int
) -> dict[str, object]:
    """The body that asks for a stream of at most `max_tokens` tokens after `prompt`.

    Args:
        prompt: a list of tokens, or a text with pictures.

    Raises:
        UsageError: the sampling makes no sense.
    """
    return {
        "prompt": prompt,
        "n_predict": max_tokens,
        "stream": True,
        "cache_prompt": True,
        "return_tokens": True,
        "return_progress": True,
        "id_slot": 0,
        # The probability of what was drawn, among the few that were left to draw from.
        "n_probs": 1,
        "post_sampling_probs": True,
        **_sampling_fields(sampling),
    }


def require_number(event: Event) -> None:
    """Refuse a token that was drawn without a probability: JSON has `null` for what is no number.

    Raises:
        EngineError: the model's logits are not numbers.
    """
    drawn = event.get("completion_probabilities")
    for token in drawn if isinstance(drawn, list) else ():
        if isinstance(token, dict) and token.get("prob", 0) is None:
            raise no_number()


def updated_stats(stats: GenerationStats, event: Event) -> GenerationStats:
    """The counts and times after an event, which may have some (the server's are milliseconds)."""
    progress, timings = event.get("prompt_progress"), event.get("timings")
    if isinstance(progress, dict):
        stats = replace(stats, n_cached=int(progress.get("cache", 0)))
    if isinstance(timings, dict):
        stats = replace(
            stats,
            n_cached=int(timings.get("cache_n", stats.n_cached)),
            n_generated=int(timings.get("predicted_n", stats.n_generated)),
            prompt_s=timings.get("prompt_ms", 0.0) / 1e3,
            decode_s=timings.get("predicted_ms", 0.0) / 1e3,
            drafts=_drafts(timings),
        )
    return stats


def report_progress(event: Event, n_prompt: int, on_prompt: PromptProgress) -> None:
    """Pass on how much of a prompt of `n_prompt` tokens was read, if the event says so."""
    progress = event.get("prompt_progress")
    if isinstance(progress, dict):
        cached = int(progress.get("cache", 0))
        total = int(progress.get("total", n_prompt)) - cached
        on_prompt(int(progress.get("processed", cached)) - cached, total)


def tokens_of(event: Event, number: int, tokenize: Callable[[str], list[int]]) -> Iterator[Token]:
    """The tokens of one event, which `number` says the first should be.

    The server holds back tokens that end inside a character and then sends the whole
    character with the last token's id only: the others are found by tokenizing it.
    """
    tokens, predicted = event.get("tokens"), event.get("tokens_predicted")
    ids = [int(token) for token in tokens] if isinstance(tokens, list) else []
    text = str(event.get("content") or "")
    if not ids or (not text and "prompt_progress" in event):
        return
    missing = predicted - number if isinstance(predicted, int) else 0
    if missing > 0 and text:
        found = tokenize(text)
        if len(found) == missing + len(ids) and found[-len(ids) :] == ids:
            ids = found
    for token in ids[:-1]:
        yield Token(token, b"")
    yield Token(ids[-1], text.encode("utf-8"))


def _drafts(timings: dict[str, object]) -> DraftStats:
    drafted, accepted = timings.get("draft_n"), timings.get("draft_n_accepted")
    if not isinstance(drafted, int) or not isinstance(accepted, int):
        return NO_DRAFTS
    return DraftStats(drafted, accepted)


def _sampling_fields(config: SamplingConfig) -> dict[str, object]:
    check_sampling(config)
    fields: dict[str, object] = {
        "samplers": SAMPLERS,
        "temperature": config.temperature,
        # Of a single one the server says that its probability is 1, whatever was computed.
        "top_k": config.top_k if config.temperature else 2,
        "top_p": config.top_p,
        "min_p": config.min_p,
        "repeat_penalty": config.repeat_penalty,
        "repeat_last_n": PENALTY_WINDOW,
        "seed": config.seed,
        "logit_bias": [[token, False] for token in config.banned],
    }
    if config.grammar is not None:
        fields["grammar"] = config.grammar
    elif config.json_schema is not None:
        fields["json_schema"] = json.loads(config.json_schema)
    return fields
