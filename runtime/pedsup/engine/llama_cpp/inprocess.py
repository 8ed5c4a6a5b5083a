"""llama.cpp in this process, through the low-level calls of llama-cpp-python."""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from pedsup.engine import build_probe
from pedsup.engine.api import (
    EngineConfig,
    GenerationStats,
    ModelInfo,
    PromptProgress,
    SamplingConfig,
    Token,
)
from pedsup.engine.limits import cannot_see, check_prompt
from pedsup.engine.llama_cpp import bindings
from pedsup.engine.llama_cpp.eyes import Eyes
from pedsup.engine.llama_cpp.kv_cache import KVCache, common_prefix
from pedsup.engine.llama_cpp.loading import load
from pedsup.engine.llama_cpp.native import decode
from pedsup.engine.picture_ids import spans, uncut, without_pictures
from pedsup.engine.sampler import SamplerChain
from pedsup.engine.vector_units import Build, judge
from pedsup.errors import BadFileError, EngineError
from pedsup.files.fsio import partial_path, publish
from pedsup.gguf_file.validate import validate_model
from pedsup.pictures.picture import Picture


class InProcessEngine:
    """An `Engine` on llama-cpp-python. See `pedsup.engine.api.Engine` for the contract."""

    def __init__(self, config: EngineConfig) -> None:
        header = validate_model(config.model)
        self._lib = lib = bindings.load()
        self._loaded = load(lib, header, config)
        self._ctx = self._loaded.native.ctx
        self._vocabulary = self._loaded.vocabulary
        self._eyes: Eyes | None = None  # loaded with the first picture
        self._config = config
        self._stats = GenerationStats(0, 0, 0, 0.0, 0.0)
        self._most_threads = config.n_threads, config.n_threads_batch
        try:
            self._prepare(config)
        except BaseException:
            self.close()
            raise

    def _prepare(self, config: EngineConfig) -> None:
        """The cache and the batch of a loaded model."""
        lib, native = self._lib, self._loaded.native
        self._n_ctx, self._n_batch = lib.llama_n_ctx(self._ctx), lib.llama_n_batch(self._ctx)
        self._cache = KVCache(lib, self._ctx, n_swa=lib.llama_model_n_swa(native.model))
        self._buffer = (lib.llama_token * self._n_batch)()
        # One batch for all calls: positions and sequence are llama.cpp's defaults, only the
        # last token's logits are computed.
        self._batch = lib.llama_batch_get_one(self._buffer, 1)

    # ---- the Engine protocol ------------------------------------------------------------

    @property
    def name(self) -> str:
        own, native = bindings.package_version(), bindings.version(self._lib)
        return f"llama-cpp-python {own} (llama.cpp {native})"

    @property
    def build(self) -> Build | None:
        packaged = build_probe.library_is_packaged()
        return judge(bindings.system_info(self._lib), packaged=packaged)

    @property
    def info(self) -> ModelInfo:
        return self._loaded.info

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
        return self._vocabulary.tokenize(text, parse_special=parse_special)

    def piece(self, token: int) -> bytes:
        return self._vocabulary.piece(token)

    @property
    def can_see(self) -> bool:
        return self._loaded.projector is not None

    def see(self, picture: Picture) -> list[int]:
        if self._eyes is None:
            if self._loaded.projector is None:
                raise cannot_see()
            self._eyes = Eyes(self._loaded.native, self._loaded.projector, self._config)
        return self._eyes.see(picture)

    def generate(
        self,
        prompt: Sequence[int],
        sampling: SamplingConfig,
        *,
        max_tokens: int,
        keep: int | None = None,
        on_prompt: PromptProgress | None = None,
    ) -> Generator[Token, None, None]:
        check_prompt(prompt, self._n_ctx)
        text = without_pictures(prompt)
        sampler = SamplerChain(self._lib, self._vocabulary.native, sampling, text)
        try:
            self._read(prompt, len(prompt) if keep is None else keep, on_prompt)
            yield from self._decode(sampler, max_tokens)
        finally:
            sampler.close()

    @property
    def adjustable(self) -> bool:
        return True

    def set_threads(self, n_threads: int, n_threads_batch: int | None = None) -> None:
        # The thread pool was made for so many.
        most, most_batch = self._most_threads
        batch = n_threads if n_threads_batch is None else n_threads_batch
        self._lib.llama_set_n_threads(
            self._ctx, max(1, min(n_threads, most)), max(1, min(batch, most_batch))
        )

    @property
    def child_pid(self) -> int | None:
        return None

    def save_state(self, path: Path) -> None:
        """Write the cached tokens and their state; the file is llama.cpp's own format.

        It has no room for pictures: they are refused.
        """
        if len(without_pictures(self._cache.tokens)) < len(self._cache.tokens):
            raise EngineError("a state with pictures cannot be saved", where=path)
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
        bindings.clear_log()
        n = self._lib.llama_state_seq_load_file(
            self._ctx, os.fsencode(path), 0, tokens, self._n_ctx, ctypes.byref(count)
        )
        if not n:
            self._cache.clear()
            raise BadFileError(
                "llama.cpp does not accept the saved state",
                where=f"{path}: {bindings.log_tail()}",
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
        if self._eyes is not None:
            self._eyes.close()
            self._eyes = None
        self._loaded.close()
        self._ctx = 0  # NULL

    # ---- inside -------------------------------------------------------------------------

    def _read(self, prompt: Sequence[int], keep: int, on_prompt: PromptProgress | None) -> None:
        """Bring the cache to `prompt`, with a checkpoint at `keep` if it is read on the way."""
        started = perf_counter()
        pictures = list(spans(prompt, self._eyes.sizes if self._eyes else {}))
        keep = uncut(keep, pictures)
        cached = self._rewind(prompt, pictures)
        at, total = cached, len(prompt) - cached
        # Only models with a sliding window need the stop at `keep`: it costs a pass over the
        # weights of its own.
        stops = [keep, len(prompt)] if self._cache.n_swa and at < keep else [len(prompt)]
        ends, looking = dict(pictures), 0.0
        for stop in stops:
            while at < stop:
                if at in ends:
                    before = perf_counter()
                    at = self._read_picture(prompt[at], at, ends[at])
                    looking += perf_counter() - before
                else:
                    at = self._read_text(prompt, at, _next(at, stop, ends))
                if on_prompt is not None:
                    on_prompt(at - cached, total)
            if stop == keep:
                self._cache.checkpoint()
        n_pictures = sum(end - begin for begin, end in pictures if begin >= cached)
        self._stats = GenerationStats(
            len(prompt), cached, 0, perf_counter() - started, 0.0,
            n_pictures=n_pictures, pictures_s=looking,
        )  # fmt: skip

    def _rewind(self, prompt: Sequence[int], pictures: Sequence[tuple[int, int]]) -> int:
        """Keep of the cache what the prompt begins with, and no part of a picture."""
        wanted = min(common_prefix(self._cache.tokens, prompt), len(prompt) - 1)
        kept = self._cache.rewind(uncut(wanted, pictures))
        whole = uncut(kept, pictures)
        return kept if whole == kept else self._cache.rewind(whole)

    def _read_text(self, prompt: Sequence[int], at: int, stop: int) -> int:
        """Read a batch of tokens; where the next one begins."""
        chunk = prompt[at : min(at + self._n_batch, stop)]
        self._buffer[: len(chunk)] = array("i", chunk)
        self._step(len(chunk))
        self._cache.tokens.extend(chunk)
        return at + len(chunk)

    def _read_picture(self, id: int, at: int, end: int) -> int:
        assert self._eyes is not None
        self._eyes.read(id, at)
        self._cache.tokens.extend([id] * (end - at))
        return end

    def _decode(self, sampler: SamplerChain, max_tokens: int) -> Generator[Token, None, None]:
        """The loop that runs once per token: everything it needs is a local name."""
        cache, buffer, ctx = self._cache.tokens, self._buffer, self._ctx
        is_end, vocab = self._lib.llama_vocab_is_eog, self._vocabulary.native
        sample, step, piece = sampler.sample, self._step, self._vocabulary.piece
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

    def _step(self, n_tokens: int) -> None:
        self._batch.n_tokens = n_tokens
        decode(self._lib, self._ctx, self._batch)


def _next(at: int, stop: int, pictures: Mapping[int, int]) -> int:
    """Where the text from `at` on ends: at a picture, or at `stop`."""
    return min((begin for begin in pictures if at < begin < stop), default=stop)
