"""Drafts by Gemma 4's own drafter models, the architecture `gemma4-assistant`.

Such a model has no keys and values: its few layers look at those of the
target's last two layers. Its input is the target's embedding of the last token beside the
target's last hidden state; its output is a next token and the next hidden state, from which the
following token is drafted, always at the same position. Method: `Gemma4AssistantForCausalLM` and
`SinglePositionMultiTokenCandidateGenerator` in transformers, `draft-mtp` in llama.cpp.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pedsup.engine.api import EngineConfig
from pedsup.engine.drafts.model import GreedyModel
from pedsup.engine.native import Native, decode
from pedsup.errors import EngineError

# llama-ext.h has no C linkage; these are the names that every Linux and Android compiler gives.
SET_HIDDEN: Final = "_Z26llama_set_embeddings_nextnP13llama_contextbb"
GET_HIDDEN: Final = "_Z30llama_get_embeddings_nextn_ithP13llama_contexti"


class AssistantDrafter:
    """A `Drafter` on the target's own cache."""

    def __init__(self, target: Native, path: Path, config: EngineConfig) -> None:
        lib = target.lib
        self._target, set_hidden = target, _function(lib, SET_HIDDEN, None, ctypes.c_bool)
        self._hidden_of = _function(lib, GET_HIDDEN, ctypes.c_void_p)
        # One token at a time: a small compute buffer.
        config = replace(config, n_batch=1, n_ubatch=1)
        self._model = GreedyModel(target, path, config, ctx_other=target.ctx)
        # The target keeps the hidden state of every token of a batch, the drafter of its last.
        set_hidden(target.ctx, True, False)
        set_hidden(self._model.ctx, True, True)
        self._token, self._position = (lib.llama_token * 1)(), (lib.llama_pos * 1)()
        self._n_bytes = ctypes.sizeof(ctypes.c_float) * int(lib.llama_model_n_embd(target.model))
        self._hidden = (ctypes.c_char * self._n_bytes)()
        batch = self._batch = lib.llama_batch_get_one(self._token, 1)
        batch.pos = ctypes.cast(self._position, type(batch.pos))
        batch.embd = ctypes.cast(self._hidden, type(batch.embd))

    def draft(self, tokens: Sequence[int], pending: int, *, limit: int, row: int) -> list[int]:
        lib, ctx = self._model.lib, self._model.ctx
        self._take_hidden(self._target.ctx, row)
        self._token[0], self._position[0] = pending, len(tokens)
        drafted: list[int] = []
        while True:
            decode(lib, ctx, self._batch)
            drafted.append(self._model.likeliest())
            if len(drafted) == limit:
                return drafted
            self._token[0] = drafted[-1]
            self._take_hidden(ctx, 0)

    def set_threads(self, n_threads: int) -> None:
        self._model.set_threads(n_threads)

    def close(self) -> None:
        """Free the drafter; the target's cache is the target's."""
        self._model.close()

    def _take_hidden(self, ctx: Any, row: int) -> None:
        found = self._hidden_of(ctx, row)
        if not found:
            raise EngineError("llama.cpp gives no hidden state to draft from", remedy="--draft off")
        ctypes.memmove(self._hidden, found, self._n_bytes)


def _function(lib: Any, name: str, result: Any, *more: Any) -> Any:
    """A function on a context that the bindings leave out."""
    try:
        function = lib._lib[name]
    except AttributeError as error:
        raise EngineError(
            "this llama.cpp cannot run Gemma 4's drafters in this process",
            where=f"no function {name}",
            wanted="the library of llama-cpp-python 0.3.36",
            remedy="give --draft lookup, or --engine server",
        ) from error
    function.restype = result
    function.argtypes = [ctypes.c_void_p, *(more * 2 if more else (ctypes.c_int32,))]
    return function
