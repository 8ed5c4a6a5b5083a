"""A model loaded to be judged or looked into: one sequence, plain kernels, logits where wanted.

The engine of a conversation gives out tokens. The stages that judge a file, and those that collect
statistics for its rounding, need whole distributions or every operation of a pass. What they share
is here: loading, the context, and one batch. Reading the logits as an array is left to them, since
this stage has no numpy.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from pedsup.engine.api import EngineConfig, ModelInfo
from pedsup.engine.llama_cpp import bindings
from pedsup.engine.llama_cpp.native import (
    apply_adapter,
    decode,
    load_adapter,
    load_model,
    make_context,
)
from pedsup.engine.llama_cpp.vocabulary import Vocabulary, read_info
from pedsup.errors import EngineError
from pedsup.gguf_file.lora import require_applicable
from pedsup.gguf_file.validate import validate_model

FLASH_ATTENTION_OFF: Final = 0
GGML_TYPE_F32: Final = 0


@dataclass(frozen=True)
class Evaluation:
    """How a model is loaded to be evaluated.

    Attributes:
        n_ctx: context in tokens.
        n_batch: most tokens computed at a time.
        n_outputs: most of them that give logits; 0 for all.
        cache_f32: keep keys and values in float32 and not, as usual, in float16.
        full_cache: keep every position of sliding-window layers, so that the cache can be cut
            back to any position.
        callback: llama.cpp's evaluation callback.
        adapter: the GGUF of a LoRA adapter to apply.
        too_much: what to do where a batch cannot be computed.
    """

    n_ctx: int
    n_batch: int
    n_threads: int
    n_outputs: int = 0
    cache_f32: bool = False
    full_cache: bool = False
    callback: Any = None
    too_much: str = ""
    adapter: Path | None = None


class EvaluatedModel:
    """A loaded model with one context, one sequence and no sampling.

    Raises:
        BadFileError, UnsupportedError: it is not a model that pedsup runs.
        MismatchError: the adapter does not belong to it.
        EngineError: llama.cpp cannot load the file.
    """

    def __init__(self, path: Path, how: Evaluation) -> None:
        header = validate_model(path)
        if how.adapter is not None:
            require_applicable(how.adapter, header)
        self.path, self.how = path, how
        self.lib = lib = bindings.load()
        bindings.clear_log()
        with ExitStack() as stack:
            # AMX and repacked weights compute something slightly different, take memory a second
            # time, and AMX crashes on some machines: the file is judged, not this processor.
            self._model = load_model(lib, EngineConfig(path, extra_buffers=False))
            stack.callback(lib.llama_model_free, self._model)
            self.vocabulary = Vocabulary(lib, self._model)
            adapter = load_adapter(lib, self._model, how.adapter)  # the context makes room for it
            self._ctx = make_context(lib, self._model, self._context(), path)
            stack.callback(lib.llama_free, self._ctx)
            apply_adapter(lib, self._ctx, adapter)
            self._batch = lib.llama_batch_init(how.n_batch, 0, 1)
            stack.callback(lib.llama_batch_free, self._batch)
            self._resources = stack.pop_all()
        vocab = self.vocabulary.native
        self.n_vocab = int(lib.llama_vocab_n_tokens(vocab))
        self.add_bos = bool(lib.llama_vocab_get_add_bos(vocab))
        self.bos = int(lib.llama_vocab_bos(vocab))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model; a second call does nothing."""
        self._resources.close()

    @property
    def info(self) -> ModelInfo:
        return read_info(self.lib, self._model, self.vocabulary)

    def piece(self, token: int) -> str:
        """The text of one token, special tokens included; '' for a token that is not there."""
        return self.vocabulary.piece(token).decode("utf-8", "replace") if token >= 0 else ""

    def forget(self) -> None:
        """Empty the cache."""
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self._ctx), True)

    def shorten(self, n: int) -> bool:
        """Drop the cache's positions from `n` on; False where llama.cpp cannot."""
        memory = self.lib.llama_get_memory(self._ctx)
        return bool(self.lib.llama_memory_seq_rm(memory, 0, n, -1))

    def compute(self, tokens: Sequence[int], start: int, outputs: Container[int]) -> None:
        """Compute tokens at the positions `start`, ...

        Args:
            tokens: at most a batch.
            outputs: indices among `tokens` of those that give logits.

        Raises:
            EngineError: llama.cpp cannot compute them.
        """
        batch = self._batch
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, start + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = i in outputs
        batch.n_tokens = len(tokens)
        try:
            decode(self.lib, self._ctx, batch)
        except EngineError as error:
            where = f"{self.path}: {bindings.log_tail()}"
            raise EngineError(error.found, where=where, remedy=self.how.too_much) from error

    @property
    def logits_address(self) -> Any:
        """Pointer to the float32 logits of the last batch, [outputs, n_vocab]."""
        return self.lib.llama_get_logits(self._ctx)

    def _context(self) -> Any:
        how, params = self.how, self.lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = how.n_ctx, how.n_batch, how.n_batch
        params.n_seq_max = 1
        if how.n_outputs:
            params.n_outputs_max = how.n_outputs
        params.n_threads = params.n_threads_batch = how.n_threads
        if how.cache_f32:
            params.type_k = params.type_v = GGML_TYPE_F32
        # Flash attention on the CPU adds up in half precision below a batch size of its own, so
        # that the logits would depend on how a window is cut.
        params.flash_attn_type = FLASH_ATTENTION_OFF
        params.swa_full = how.full_cache
        if how.callback is not None:
            params.cb_eval = how.callback
        return params
