"""llama.cpp's forward pass over windows of tokens, with a look at every operation.

The engine that runs the model on the phone computes the activations, so that any architecture it
knows can be calibrated, and the sums are those of `llama-imatrix`.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

import numpy as np

from pedsup.engine.llama_cpp import bindings
from pedsup.engine.llama_cpp.vocabulary import Vocabulary
from pedsup.errors import EngineError
from pedsup.gguf_file.validate import validate_model
from pedsup_export.calibration import nodes

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOAD_MODE_MMAP: Final = 1
FLASH_ATTENTION_OFF: Final = 0

Look = Callable[[ctypes.Structure, str], bool]
"""Called with a computed node and its operation; False ends the pass there."""
Wanted = Callable[[ctypes.Structure, str], bool]
"""Whether `Look` wants to see a node."""


class ForwardPass:
    """A model loaded to be looked into: one window of tokens at a time, every output computed.

    Raises:
        BadFileError, UnsupportedError: it is not a model that pedsup runs.
        EngineError: llama.cpp cannot load it.
    """

    def __init__(self, path: Path, *, window: int, n_threads: int) -> None:
        validate_model(path)
        self.path, self.window = path, window
        self._lib = lib = bindings.load()
        self._model = self._ctx = self._batch = None
        self._wanted: Wanted | None = None
        self._look: Look | None = None
        self._error: BaseException | None = None
        self._checked = False
        bindings.clear_log()
        params = lib.llama_model_default_params()
        params.n_gpu_layers, params.load_mode = 0, LOAD_MODE_MMAP
        # AMX crashes on some machines, and repacked weights take memory a second time.
        params.use_extra_bufts = False
        try:
            self._model = lib.llama_model_load_from_file(os.fsencode(path), params)
            self._require(self._model, "llama.cpp cannot load the model")
            self.vocabulary = Vocabulary(lib, self._model)
            self._ctx = lib.llama_init_from_model(self._model, self._context(n_threads))
            self._require(self._ctx, "llama.cpp cannot make a context for the model")
            self._batch = lib.llama_batch_init(window, 0, 1)
        except BaseException:
            self.close()
            raise
        vocab = self.vocabulary.native
        self.n_vocab = int(lib.llama_vocab_n_tokens(vocab))
        self.bos = int(lib.llama_vocab_bos(vocab)) if lib.llama_vocab_get_add_bos(vocab) else None

    @property
    def lib(self) -> ModuleType:
        """llama.cpp's declarations."""
        return self._lib

    @property
    def handle(self) -> int:
        """llama.cpp's own handle of the model, an address."""
        assert self._model is not None
        return int(self._model)

    def __enter__(self) -> ForwardPass:
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

    def run(
        self,
        tokens: Sequence[int],
        wanted: Wanted,
        look: Look,
        outputs: Container[int] | None = None,
    ) -> None:
        """Compute one window from an empty cache.

        Args:
            tokens: at most a window.
            wanted, look: what to look at.
            outputs: positions that give logits; all of them when None, so that no operation of the
                last layer leaves tokens out.

        Raises:
            EngineError: llama.cpp cannot compute it.
            Exception: whatever `wanted` or `look` raised.
        """
        self._wanted, self._look, self._error = wanted, look, None
        memory = self._lib.llama_get_memory(self._ctx)
        self._lib.llama_memory_clear(memory, True)
        batch = self._batch
        assert batch is not None
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = outputs is None or i in outputs
        batch.n_tokens = len(tokens)
        code = self._lib.llama_decode(self._ctx, batch)
        if self._error is not None:
            raise self._error
        if code:
            raise EngineError(
                f"llama.cpp cannot decode (code {code})",
                where=f"{self.path}: {bindings.log_tail()}",
                remedy="give a smaller --window",
            )

    def logits(self, n_outputs: int) -> NDArray[np.float32]:
        """Logits of the last window, float32 [n_outputs, n_vocab], valid until the next one."""
        pointer = self._lib.llama_get_logits(self._ctx)
        return np.ctypeslib.as_array(pointer, shape=(n_outputs, self.n_vocab))

    def _context(self, n_threads: int) -> ctypes.Structure:
        lib = self._lib
        params: ctypes.Structure = lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = self.window
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = n_threads
        params.flash_attn_type = FLASH_ATTENTION_OFF
        self._callback = lib.ggml_backend_sched_eval_callback(self._called)
        params.cb_eval = self._callback
        params.cb_eval_user_data = ctypes.c_void_p(0)
        return params

    def _called(self, address: int, ask: bool, _data: object) -> bool:
        """llama.cpp's callback: an error must not cross its C frames, so it waits in `_error`."""
        if self._error is not None or self._wanted is None or self._look is None:
            return False
        try:
            pointer = ctypes.cast(address, nodes.NodePointer)
            if not self._checked:
                nodes.check(self._lib, pointer)
                self._checked = True
            node = pointer.contents
            kind = nodes.operation(self._lib, node)
            return self._wanted(node, kind) if ask else self._look(node, kind)
        except BaseException as error:
            self._error = error
            return ask  # look at this node, so that the second call can end the pass

    def _require(self, handle: object, found: str) -> None:
        if not handle:
            raise EngineError(
                found,
                where=f"{self.path}: {bindings.log_tail() or 'no reason given'}",
                wanted="a GGUF that this llama.cpp knows, and memory enough for it",
                remedy="check the file with its SHA-256, or free memory",
            )
