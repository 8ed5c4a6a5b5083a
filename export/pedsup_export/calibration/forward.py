"""llama.cpp's forward pass over windows of tokens, with a look at every operation.

The engine that runs the model on the phone computes the activations, so that any architecture it
knows can be calibrated, and the sums are those of `llama-imatrix`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pedsup.engine.llama_cpp import bindings
from pedsup.engine.llama_cpp.evaluation import EvaluatedModel, Evaluation
from pedsup.errors import EngineError
from pedsup_export.calibration import nodes

if TYPE_CHECKING:
    from numpy.typing import NDArray

Look = Callable[[ctypes.Structure, str], bool]
"""Called with a computed node and its operation; False ends the pass there."""
Wanted = Callable[[ctypes.Structure, str], bool]
"""Whether `Look` wants to see a node."""


class ForwardPass(EvaluatedModel):
    """A model loaded for inspection: one window of tokens at a time, every output computed.

    Raises:
        BadFileError, UnsupportedError: it is not a model that pedsup runs.
        EngineError: llama.cpp cannot load it.
    """

    def __init__(self, path: Path, *, window: int, n_threads: int) -> None:
        self.window = window
        self._wanted: Wanted | None = None
        self._look: Look | None = None
        self._error: BaseException | None = None
        self._checked = False
        self._callback = bindings.load().ggml_backend_sched_eval_callback(self._called)
        super().__init__(
            path,
            Evaluation(
                window, window, n_threads, callback=self._callback,
                too_much="give a smaller --window",
            ),
        )  # fmt: skip

    @property
    def first_token(self) -> int | None:
        """What a window begins with: bos, where the vocabulary asks for it."""
        return self.bos if self.add_bos else None

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
            outputs: positions that give logits; all of them when None, so that no operation of the
                last layer leaves tokens out.

        Raises:
            EngineError: llama.cpp cannot compute it.
            Exception: whatever `wanted` or `look` raised.
        """
        self._wanted, self._look, self._error = wanted, look, None
        self.forget()
        try:
            self.compute(tokens, 0, range(len(tokens)) if outputs is None else outputs)
        except EngineError:
            if self._error is None:
                raise
        if self._error is not None:
            raise self._error

    def logits(self, n_outputs: int) -> NDArray[np.float32]:
        """Logits of the last window, float32 [n_outputs, n_vocab], valid until the next one."""
        return np.ctypeslib.as_array(self.logits_address, shape=(n_outputs, self.n_vocab))

    def _called(self, address: int, ask: bool, _data: object) -> bool:
        """llama.cpp's callback: an error must not cross its C frames, so it waits in `_error`."""
        if self._error is not None or self._wanted is None or self._look is None:
            return False
        try:
            pointer = ctypes.cast(address, nodes.NodePointer)
            if not self._checked:
                nodes.check(self.lib, pointer)
                self._checked = True
            node = pointer.contents
            kind = nodes.operation(self.lib, node)
            return self._wanted(node, kind) if ask else self._look(node, kind)
        except BaseException as error:
            self._error = error
            return ask  # look at this node, so that the second call can end the pass
