"""llama.cpp in this process, through the low-level calls of llama-cpp-python."""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from pedsup.engine import llama_bindings
from pedsup.engine.api import (
    EngineConfig,
    GenerationStats,
    ModelInfo,
    PromptProgress,
    SamplingConfig,
    Token,
)
from pedsup.engine.ends import end_tokens
from pedsup.engine.kv_cache import KVCache, common_prefix
from pedsup.engine.native import Native, context_params, decode, load_model, make_context
from pedsup.engine.sampler import SamplerChain
from pedsup.engine.streaming import LayerStreamer, plan_stream
from pedsup.errors import BadFileError, EngineError, UsageError
from pedsup.fsio import partial_path, publish
from pedsup.gguf_file.validate import validate_model
from pedsup.memory.shape import PER_LAYER_TABLE

if TYPE_CHECKING:
    from pedsup.engine.drafts.verify import Verifier

MAX_PIECE: Final = 512
"""Bytes: the longest token text of a sane vocabulary; longer ones take a second call."""


class InProcessEngine:
    """An `Engine` on llama-cpp-python. See `pedsup.engine.api.Engine` for the contract."""

    def __init__(self, config: EngineConfig) -> None:
        validate_model(config.model)
        self._lib = llama_bindings.load()
        self._model: Any = None
        self._ctx: Any = None
        self._verifier: Verifier | None = None
        self._pool: ctypes.c_void_p | None = None
        self._streamer: LayerStreamer | None = None
        self._pieces: dict[int, bytes] = {}
        self._stats = GenerationStats(0, 0, 0, 0.0, 0.0)
        self._most_threads = config.n_threads, config.n_threads_batch
        llama_bindings.clear_log()
        if config.cpus:
            # Before any thread starts: llama.cpp's threads inherit the mask.
            os.sched_setaffinity(0, config.cpus)
        try:
            self._load(config)
        except BaseException:
            self.close()
            raise

    # ---- loading ------------------------------------------------------------------------

    def _load(self, config: EngineConfig) -> None:
        lib = self._lib
        self._model = load_model(lib, config.model, config)
        self._vocab = lib.llama_model_get_vocab(self._model)
        self._info = self._read_info()
        if config.n_ctx > self._info.n_ctx_train:
            raise UsageError(
                f"a context of {config.n_ctx} tokens was asked for",
                where=config.model,
                wanted=f"at most {self._info.n_ctx_train}, the model's own",
                remedy=f"give --ctx {self._info.n_ctx_train} or less",
            )
        params = context_params(lib, config)
        # With drafts, every token of one is a row to draw from.
        params.n_outputs_max = config.draft.n_rows
        self._streamer = _streamer(lib, config)
        if self._streamer is not None:
            params.cb_eval = self._streamer.callback
        self._ctx = make_context(lib, self._model, params, config.model)
        if self._streamer is not None:
            self._streamer.attach()
        self._pool = llama_bindings.make_threadpool(
            lib, max(config.n_threads, config.n_threads_batch)
        )
        if self._pool is not None:
            lib._lib.llama_attach_threadpool(self._ctx, self._pool, None)
        self._n_ctx, self._n_batch = lib.llama_n_ctx(self._ctx), lib.llama_n_batch(self._ctx)
        self._cache = KVCache(lib, self._ctx, n_swa=lib.llama_model_n_swa(self._model))
        self._buffer = (lib.llama_token * self._n_batch)()
        # One batch for all calls: positions and sequence are llama.cpp's defaults, only the
        # last token's logits are computed.
        self._batch = lib.llama_batch_get_one(self._buffer, 1)
        if config.draft.kind != "off":
            from pedsup.engine.drafts.choose import make_verifier

            target = Native(lib, self._model, self._ctx, self._pool)
            self._verifier = make_verifier(target, self._cache, config)

    def _read_info(self) -> ModelInfo:
        lib, vocab = self._lib, self._vocab
        n_vocab = lib.llama_vocab_n_tokens(vocab)
        template = lib.llama_model_chat_template(self._model, None)
        return ModelInfo(
            architecture=self._metadata("general.architecture"),
            n_vocab=n_vocab,
            n_ctx_train=lib.llama_model_n_ctx_train(self._model),
            bos=lib.llama_vocab_bos(vocab),
            eos=lib.llama_vocab_eos(vocab),
            end_of_generation=self._ends(),
            chat_template=template.decode("utf-8", "replace") if template else None,
        )

    def _ends(self) -> frozenset[int]:
        lib, vocab = self._lib, self._vocab
        declared = {lib.llama_vocab_eos(vocab), lib.llama_vocab_eot(vocab)}

        def is_end(token: int) -> bool:
            return bool(lib.llama_vocab_is_eog(vocab, token))

        return end_tokens(self, is_end) | {t for t in declared if t >= 0 and is_end(t)}

    def _metadata(self, key: str) -> str:
        buffer = ctypes.create_string_buffer(256)
        n = self._lib.llama_model_meta_val_str(
            self._model, key.encode(), buffer, ctypes.sizeof(buffer)
        )
        return buffer.value.decode("utf-8", "replace") if n >= 0 else ""

    # ---- the Engine protocol ------------------------------------------------------------

    @property
    def name(self) -> str:
        own, native = llama_bindings.package_version(), llama_bindings.version(self._lib)
        return f"llama-cpp-python {own} (llama.cpp {native})"

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def n_ctx(self) -> int:
        return int(self._n_ctx)

    @property
    def cached(self) -> Sequence[int]:
        return self._cache.tokens

    @property
    def last_stats(self) -> GenerationStats:
        return self._stats

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        raw = text.encode("utf-8")
        room = len(raw) + 8
        while True:
            buffer = (self._lib.llama_token * room)()
            n = self._lib.llama_tokenize(
                self._vocab, raw, len(raw), buffer, room, False, parse_special
            )
            if n >= 0:
                return list(buffer[:n])
            room = -n

    def piece(self, token: int) -> bytes:
        found = self._pieces.get(token)
        if found is None:
            found = self._pieces[token] = self._render(token)
        return found

    def generate(
        self,
        prompt: Sequence[int],
        sampling: SamplingConfig,
        *,
        max_tokens: int,
        keep: int | None = None,
        on_prompt: PromptProgress | None = None,
    ) -> Generator[Token, None, None]:
        self._check_prompt(prompt)
        sampler = SamplerChain(self._lib, self._vocab, sampling, prompt)
        try:
            self._read(prompt, len(prompt) if keep is None else keep, on_prompt)
            decoding = self._decode if self._verifier is None else self._decode_with_drafts
            yield from decoding(sampler, max_tokens)
        finally:
            sampler.close()

    def set_threads(self, n_threads: int, n_threads_batch: int | None = None) -> None:
        """Use fewer threads than it was loaded with, from the next step on, or those again.

        Args:
            n_threads: for decoding; `n_threads_batch`: for prompts, the same unless given. Both
                are cut to what the thread pool was made for.
        """
        most, most_batch = self._most_threads
        batch = n_threads if n_threads_batch is None else n_threads_batch
        self._lib.llama_set_n_threads(
            self._ctx, max(1, min(n_threads, most)), max(1, min(batch, most_batch))
        )
        if self._verifier is not None:
            self._verifier.set_threads(max(1, min(n_threads, most)))

    def save_state(self, path: Path) -> None:
        """Write the cached tokens and their state; the file is llama.cpp's own format."""
        tokens = (self._lib.llama_token * len(self._cache.tokens))(*self._cache.tokens)
        partial = partial_path(path)
        try:
            n = self._lib.llama_state_seq_save_file(
                self._ctx, os.fsencode(partial), 0, tokens, len(tokens)
            )
            if not n:
                raise EngineError("llama.cpp cannot write its state", where=path)
            publish(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    def load_state(self, path: Path) -> list[int]:
        self._cache.clear()
        tokens = (self._lib.llama_token * self._n_ctx)()
        count = ctypes.c_size_t(0)
        llama_bindings.clear_log()
        n = self._lib.llama_state_seq_load_file(
            self._ctx, os.fsencode(path), 0, tokens, self._n_ctx, ctypes.byref(count)
        )
        if not n:
            self._cache.clear()
            raise BadFileError(
                "llama.cpp does not take the saved state",
                where=f"{path}: {llama_bindings.log_tail()}",
                wanted="a state written by the same engine, model and settings",
                remedy="delete the file: it is only a cache",
            )
        self._cache.tokens.extend(tokens[: count.value])
        self._cache.checkpoint(pinned=True)
        return list(self._cache.tokens)

    @property
    def restartable(self) -> bool:
        return False

    def restart(self) -> None:
        raise EngineError("an engine in this process cannot be started again")

    def close(self) -> None:
        if self._verifier is not None:
            # Before the context, which a drafter may share.
            self._verifier.close()
            self._verifier = None
        if self._ctx:
            self._lib.llama_free(self._ctx)
        if self._pool is not None:
            llama_bindings.free_threadpool(self._lib, self._pool)
        if self._model:
            self._lib.llama_model_free(self._model)
        if self._streamer is not None:
            self._streamer.close()
        self._ctx = self._model = self._pool = self._streamer = None

    # ---- inside -------------------------------------------------------------------------

    def _check_prompt(self, prompt: Sequence[int]) -> None:
        if not prompt:
            raise UsageError("the prompt is empty", wanted="at least one token")
        if len(prompt) >= self._n_ctx:
            raise UsageError(
                f"the prompt has {len(prompt)} tokens",
                wanted=f"fewer than the context's {self._n_ctx}",
                remedy="shorten the text, start a new session, or give a larger --ctx",
            )

    def _read(self, prompt: Sequence[int], keep: int, on_prompt: PromptProgress | None) -> None:
        """Bring the cache to `prompt`, with a checkpoint at `keep` if it is read on the way."""
        started = perf_counter()
        cached = self._cache.rewind(min(common_prefix(self._cache.tokens, prompt), len(prompt) - 1))
        at, total = cached, len(prompt) - cached
        # Only models with a sliding window need the stop at `keep`: it costs a pass over the
        # weights of its own.
        stops = [keep, len(prompt)] if self._cache.n_swa and at < keep else [len(prompt)]
        for stop in stops:
            while at < stop:
                chunk = prompt[at : min(at + self._n_batch, stop)]
                self._buffer[: len(chunk)] = array("i", chunk)
                self._step(len(chunk))
                self._cache.tokens.extend(chunk)
                at += len(chunk)
                if on_prompt is not None:
                    on_prompt(at - cached, total)
            if stop == keep:
                self._cache.checkpoint()
        self._stats = GenerationStats(len(prompt), cached, 0, perf_counter() - started, 0.0)

    def _decode(self, sampler: SamplerChain, max_tokens: int) -> Generator[Token, None, None]:
        """The loop that runs once per token: everything it needs is a local name."""
        cache, buffer, ctx, vocab = self._cache.tokens, self._buffer, self._ctx, self._vocab
        is_end = self._lib.llama_vocab_is_eog
        sample, step, piece = sampler.sample, self._step, self.piece
        n, busy = 0, 0.0
        room = min(max_tokens, self._n_ctx - len(cache))
        try:
            while n < room:
                started = perf_counter()
                token = sample(ctx)
                busy += perf_counter() - started
                if is_end(vocab, token):
                    return
                n += 1
                yield Token(token, piece(token))
                if n == room:
                    return
                started = perf_counter()
                buffer[0] = token
                step(1)
                cache.append(token)
                busy += perf_counter() - started
        finally:
            self._stats = replace(self._stats, n_generated=n, decode_s=busy)

    @property
    def last_pass(self) -> tuple[int, int] | None:
        """With drafts: passes over the weights so far, and the guessed tokens in the last one."""
        return self._verifier.last_pass if self._verifier is not None else None

    def _decode_with_drafts(
        self, sampler: SamplerChain, max_tokens: int
    ) -> Generator[Token, None, None]:
        """The same tokens, several for one pass over the weights where a draft was right."""
        verifier = self._verifier
        assert verifier is not None
        room = min(max_tokens, self._n_ctx - len(self._cache.tokens))
        drawing = verifier.tokens(sampler, room, row=self._batch.n_tokens - 1)
        try:
            with closing(drawing):
                for token in drawing:
                    yield Token(token, self.piece(token))
        finally:
            drafts = verifier.stats
            self._stats = replace(
                self._stats,
                n_generated=verifier.n_generated,
                decode_s=drafts.with_s,
                drafts=drafts,
            )

    def _step(self, n_tokens: int) -> None:
        self._batch.n_tokens = n_tokens
        decode(self._lib, self._ctx, self._batch)

    def _render(self, token: int) -> bytes:
        size = MAX_PIECE
        while True:
            buffer = ctypes.create_string_buffer(size)
            n = self._lib.llama_token_to_piece(self._vocab, token, buffer, size, 0, True)
            if n >= 0:
                return buffer.raw[:n]
            size = -n


def _streamer(lib: Any, config: EngineConfig) -> LayerStreamer | None:
    """What lets layers go when the mapped file does not fit; None when it does."""
    if config.resident is None or not config.use_mmap:
        return None
    plan = plan_stream(validate_model(config.model), config.resident, PER_LAYER_TABLE)
    return LayerStreamer(lib, plan, config.model) if plan.layers else None
