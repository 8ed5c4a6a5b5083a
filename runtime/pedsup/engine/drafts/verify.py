"""The decoding loop with drafts: guess, read all guesses in one pass, keep what the model draws."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Generator
from time import perf_counter
from typing import Final

from pedsup.engine.api import DraftStats
from pedsup.engine.drafts.api import Drafter
from pedsup.engine.drafts.length import DraftLength
from pedsup.engine.kv_cache import KVCache
from pedsup.engine.native import Native, decode
from pedsup.engine.sampler import SamplerChain

NEWEST_WEIGHT: Final = 0.1
"""Of the newest step in the running mean of the time of a step without a draft."""


class Verifier:
    """Draws tokens for one context. The cache holds, at each yield, what was drawn and no more
    than the rest of one draft, which is taken out when the consumer leaves.

    Rows of logits are drawn from one after the other and only as the consumer asks: the sampler
    (penalties, grammar, random numbers) goes through the same states as without drafts, and what
    the consumer does not want was never drawn.
    """

    def __init__(self, target: Native, cache: KVCache, drafter: Drafter, n_max: int) -> None:
        lib = self._lib = target.lib
        self._ctx, self._cache, self._drafter = target.ctx, cache, drafter
        self._vocab = lib.llama_model_get_vocab(target.model)
        self._length = DraftLength(n_max)
        self._buffer = (lib.llama_token * (n_max + 1))()
        self._rows = (ctypes.c_int8 * (n_max + 1))(*([1] * (n_max + 1)))
        self._batch = lib.llama_batch_get_one(self._buffer, 1)
        # Logits of every token, not of the last one only.
        self._batch.logits = ctypes.cast(self._rows, type(self._batch.logits))
        self._plain_s = 0.0
        self.n_generated = 0
        self.stats = DraftStats()
        self.last_pass = (0, 0)
        """Passes over the weights so far, and the guessed tokens in the last one."""

    def tokens(self, sampler: SamplerChain, room: int, *, row: int) -> Generator[int, None, None]:
        """Draw up to `room` tokens, until an end of generation or until the consumer leaves.

        Args:
            room: at most this many; the cache has place for all but the last.
            row: the index in the prompt's last batch of its last token.
        """
        is_end, vocab, cached = self._lib.llama_vocab_is_eog, self._vocab, self._cache.tokens
        draft: list[int] = []
        at = n_drafted = n_accepted = self.n_generated = 0
        drawing_s = reading_s = 0.0
        try:
            while self.n_generated < room:
                started = perf_counter()
                token = sampler.sample(self._ctx, row + at)
                drawing_s += perf_counter() - started
                if is_end(vocab, token):
                    return
                self.n_generated += 1
                hit = at < len(draft) and draft[at] == token
                if hit:
                    # It has been read already, and the next row is what follows it.
                    cached.append(token)
                    n_accepted, at = n_accepted + 1, at + 1
                yield token
                if hit or self.n_generated == room:
                    continue
                started = perf_counter()
                if draft:
                    self._learn(len(draft), at)
                # Emptied first: should the next reading fail, nothing of it is in the cache.
                at, row, draft = 0, row + at, []
                draft = self._guess(token, room - self.n_generated - 1, row)
                self._read(token, draft)
                row, n_drafted = 0, n_drafted + len(draft)
                elapsed = perf_counter() - started
                reading_s += elapsed
                if not draft:
                    self._note_plain(elapsed)
        finally:
            if at < len(draft):
                self._cache.drop_unnoted()
            # Drawing takes as long with drafts as without.
            without_s = drawing_s + self.n_generated * self._plain_s if self._plain_s else 0.0
            self.stats = DraftStats(n_drafted, n_accepted, drawing_s + reading_s, without_s)

    def set_threads(self, n_threads: int) -> None:
        """Let a draft model use as many threads as its target."""
        self._drafter.set_threads(n_threads)

    def close(self) -> None:
        """Free the drafter."""
        self._drafter.close()

    def _guess(self, pending: int, most: int, row: int) -> list[int]:
        """A draft; none when one would not fit, or when drafts have been wrong lately."""
        limit = min(self._length.next(), most) if most > 0 else 0
        if limit < 1:
            return []
        return self._drafter.draft(self._cache.tokens, pending, limit=limit, row=row)[:limit]

    def _read(self, pending: int, draft: list[int]) -> None:
        n = 1 + len(draft)
        self._buffer[:n] = array("i", (pending, *draft))
        self._batch.n_tokens = n
        decode(self._lib, self._ctx, self._batch)
        self.last_pass = (self.last_pass[0] + 1, len(draft))
        self._cache.tokens.append(pending)

    def _learn(self, drafted: int, accepted: int) -> None:
        self._length.note(drafted, accepted)
        if accepted < drafted:
            self._cache.drop_unnoted()

    def _note_plain(self, seconds: float) -> None:
        weight = NEWEST_WEIGHT if self._plain_s else 1.0
        self._plain_s += weight * (seconds - self._plain_s)
