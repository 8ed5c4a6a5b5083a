"""Logits of a GGUF at every position, a few rows at a time, through llama.cpp's low-level calls.

The runtime's engines give out tokens; judging a file needs whole distributions. One row of
Gemma 4 is 262144 floats (1 MiB), so rows are handed out in slices and never kept.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pedsup.engine.llama_cpp import bindings
from pedsup.engine.llama_cpp.kv_cache import common_prefix
from pedsup.engine.llama_cpp.vocabulary import Vocabulary
from pedsup.errors import EngineError, UsageError
from pedsup.gguf_file.validate import validate_model

ROWS: Final = 16
"""Rows of logits handed out at a time: 16 MiB for Gemma 4's vocabulary, twice that in float64."""
DECODE_ROWS: Final = 64
"""Rows of logits that llama.cpp computes at a time: fewer would cost more passes over the weights,
and more waiting of its threads for one another."""
N_BATCH: Final = 512
LOAD_MODE_MMAP: Final = 1
FLASH_ATTENTION_OFF: Final = 0
GGML_TYPE_F32: Final = 0

FloatRows = NDArray[np.float32]


class LogitModel:
    """A model loaded for evaluation only: one sequence, full-size cache, no sampling.

    Args:
        path: the GGUF.
        n_ctx: context in tokens.
        n_threads: threads of llama.cpp.
        cache_f32: keep keys and values in float32 and not, as usual, in float16.

    Raises:
        BadFileError, UnsupportedError: it is no model that pedsup runs.
        EngineError: llama.cpp cannot load the file.
    """

    def __init__(self, path: Path, *, n_ctx: int, n_threads: int, cache_f32: bool = False) -> None:
        validate_model(path)
        self.path, self.n_ctx, self._cache_f32 = path, n_ctx, cache_f32
        self._lib = lib = bindings.load()
        self._model = self._ctx = self._batch = None
        self._cached: list[int] = []
        bindings.clear_log()
        params = lib.llama_model_default_params()
        params.n_gpu_layers, params.load_mode = 0, LOAD_MODE_MMAP
        # AMX and repacked weights compute something slightly else than the plain kernels, and
        # AMX crashes on some machines: the file is judged, not this processor.
        params.use_extra_bufts = False
        try:
            self._model = lib.llama_model_load_from_file(os.fsencode(path), params)
            self._require(self._model, "llama.cpp cannot load the model")
            self._vocabulary = Vocabulary(lib, self._model)
            self._ctx = lib.llama_init_from_model(self._model, self._context(n_ctx, n_threads))
            self._require(self._ctx, "llama.cpp cannot make a context for the model")
            self._batch = lib.llama_batch_init(N_BATCH, 0, 1)
        except BaseException:
            self.close()
            raise
        vocab = self._vocabulary.native
        self.n_vocab = int(lib.llama_vocab_n_tokens(vocab))
        self.add_bos = bool(lib.llama_vocab_get_add_bos(vocab))
        self.bos = int(lib.llama_vocab_bos(vocab))

    def __enter__(self) -> LogitModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model."""
        if self._batch is not None:
            self._lib.llama_batch_free(self._batch)
        if self._ctx:
            self._lib.llama_free(self._ctx)
        if self._model:
            self._lib.llama_model_free(self._model)
        self._model = self._ctx = self._batch = None

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids; `add_special` adds bos where the vocabulary asks for it."""
        return self._vocabulary.tokenize(text, parse_special=parse_special, add_special=add_special)

    def piece(self, token: int) -> str:
        """The text of one token, special tokens included."""
        return self._vocabulary.piece(token).decode("utf-8", "replace")

    @property
    def chat_template(self) -> str | None:
        text = self._lib.llama_model_chat_template(self._model, None)
        return text.decode("utf-8", "replace") if text else None

    def window_logits(self, tokens: Sequence[int], first: int) -> Iterator[FloatRows]:
        """Logits at the positions `first`, ..., len(tokens) - 1 of a fresh sequence.

        Yields:
            float32 [rows, n_vocab], at most `ROWS` rows, valid until the next one is asked for.
        """
        self._rewind(0)
        self._feed(tokens[:first])
        for at in range(first, len(tokens), DECODE_ROWS):
            part = tokens[at : at + DECODE_ROWS]
            self._decode(part, outputs=len(part))
            rows = self._rows(len(part))
            for row in range(0, len(part), ROWS):
                yield rows[row : row + ROWS]

    def next_logits(self, tokens: Sequence[int]) -> FloatRows:
        """Logits of the token after `tokens`; the part it shares with the last call is reused.

        Returns:
            float32 [n_vocab], valid until the next call.
        """
        if len(tokens) > self.n_ctx:
            raise UsageError(
                f"a prompt of {len(tokens)} tokens", wanted=f"at most {self.n_ctx} tokens"
            )
        self._rewind(min(common_prefix(self._cached, tokens), len(tokens) - 1))
        self._feed(tokens[len(self._cached) : -1])
        self._decode(tokens[-1:], outputs=1)
        row: FloatRows = self._rows(1)[0]
        return row

    def read_only(self, tokens: Sequence[int]) -> None:
        """Read a prompt from its start and forget it, to take its time."""
        self._rewind(0)
        self._feed(tokens)
        self._rewind(0)

    def _context(self, n_ctx: int, n_threads: int) -> ctypes.Structure:
        params: ctypes.Structure = self._lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, N_BATCH, N_BATCH
        params.n_seq_max, params.n_outputs_max = 1, DECODE_ROWS
        params.n_threads = params.n_threads_batch = n_threads
        if self._cache_f32:
            params.type_k = params.type_v = GGML_TYPE_F32
        # Flash attention on the CPU adds up in half precision below a batch size of its own, so
        # that the logits would depend on how a window is cut.
        params.flash_attn_type = FLASH_ATTENTION_OFF
        # A full-size sliding-window cache lets `next_logits` return to any position.
        params.swa_full = True
        return params

    def _rewind(self, n: int) -> None:
        memory = self._lib.llama_get_memory(self._ctx)
        if n == 0:
            self._lib.llama_memory_clear(memory, True)
        elif not self._lib.llama_memory_seq_rm(memory, 0, n, -1):
            raise EngineError("llama.cpp cannot shorten its cache", where=self.path)
        del self._cached[n:]

    def _feed(self, tokens: Sequence[int]) -> None:
        for at in range(0, len(tokens), N_BATCH):
            self._decode(tokens[at : at + N_BATCH], outputs=0)

    def _decode(self, tokens: Sequence[int], *, outputs: int) -> None:
        """Append `tokens`; the last `outputs` of them give logits."""
        if not tokens:
            return
        batch = self._batch
        assert batch is not None
        start, n = len(self._cached), len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, start + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = i >= n - outputs
        batch.n_tokens = n
        code = self._lib.llama_decode(self._ctx, batch)
        if code:
            raise EngineError(
                f"llama.cpp cannot decode (code {code})",
                where=f"{self.path}: {bindings.log_tail()}",
                remedy="give fewer tokens of context (--ctx)",
            )
        self._cached.extend(tokens)

    def _rows(self, n: int) -> FloatRows:
        pointer = self._lib.llama_get_logits(self._ctx)
        return np.ctypeslib.as_array(pointer, shape=(n, self.n_vocab))

    def _require(self, handle: object, found: str) -> None:
        if not handle:
            raise EngineError(
                found,
                where=f"{self.path}: {bindings.log_tail() or 'no reason given'}",
                wanted="a GGUF that this llama.cpp knows, and memory enough for it",
                remedy="check the file with its SHA-256, or free memory",
            )
