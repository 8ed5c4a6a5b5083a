"""Drafts by a small model with the same vocabulary, and a context of its own."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pedsup.engine.api import EngineConfig
from pedsup.engine.kv_cache import KVCache, common_prefix
from pedsup.engine.native import Native, context_params, decode, load_model, make_context


class GreedyModel:
    """A loaded draft model that names its likeliest next token. Use `close` when done."""

    def __init__(self, target: Native, path: Path, config: EngineConfig, **overrides: Any) -> None:
        lib = self.lib = target.lib
        self._model = self.ctx = self._greedy = None
        try:
            self._model = load_model(lib, path, config)
            params = context_params(lib, config)
            for name, value in overrides.items():
                setattr(params, name, value)
            self.ctx = make_context(lib, self._model, params, path)
            if target.pool is not None:
                # The two contexts never compute at the same time.
                lib._lib.llama_attach_threadpool(self.ctx, target.pool, None)
            self._greedy = lib.llama_sampler_init_greedy()
            self.n_batch = int(lib.llama_n_batch(self.ctx))
            self.n_swa = int(lib.llama_model_n_swa(self._model))
        except BaseException:
            self.close()
            raise

    def likeliest(self) -> int:
        """The best token after the last one that was read."""
        return int(self.lib.llama_sampler_sample(self._greedy, self.ctx, -1))

    def set_threads(self, n_threads: int) -> None:
        """Use that many threads."""
        self.lib.llama_set_n_threads(self.ctx, n_threads, n_threads)

    def close(self) -> None:
        """Free the context, then the model."""
        if self._greedy:
            self.lib.llama_sampler_free(self._greedy)
        if self.ctx:
            self.lib.llama_free(self.ctx)
        if self._model:
            self.lib.llama_model_free(self._model)
        self._model = self.ctx = self._greedy = None


class ModelDrafter:
    """A `Drafter` on any small model whose tokens are the target's.

    It reads the same text as the target; what a turn, or a refused draft, takes back is taken
    back here when the next draft is asked for.
    """

    def __init__(self, target: Native, path: Path, config: EngineConfig) -> None:
        self._model = GreedyModel(target, path, config)
        lib = target.lib
        self._cache = KVCache(lib, self._model.ctx, n_swa=self._model.n_swa)
        self._buffer = (lib.llama_token * self._model.n_batch)()
        self._batch = lib.llama_batch_get_one(self._buffer, 1)

    def draft(self, tokens: Sequence[int], pending: int, *, limit: int, row: int) -> list[int]:
        text = [*tokens, pending]
        at = self._cache.rewind(common_prefix(self._cache.tokens, tokens))
        while at < len(text):
            at += self._read(text[at : at + self._model.n_batch])
        drafted = [self._model.likeliest()]
        while len(drafted) < limit:
            self._read(drafted[-1:])
            drafted.append(self._model.likeliest())
        return drafted

    def set_threads(self, n_threads: int) -> None:
        self._model.set_threads(n_threads)

    def close(self) -> None:
        """Free the draft model."""
        self._model.close()

    def _read(self, tokens: Sequence[int]) -> int:
        n = len(tokens)
        self._buffer[:n] = array("i", tokens)
        self._batch.n_tokens = n
        decode(self._model.lib, self._model.ctx, self._batch)
        self._cache.tokens.extend(tokens)
        return n
