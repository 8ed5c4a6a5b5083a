"""llama.cpp's forward pass over windows of tokens, with a look at every operation.

The engine that runs the model on the phone computes the activations, so that any architecture it
knows can be calibrated, and the sums are those of `llama-imatrix`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

import numpy as np

from pedsup.engine.llama_cpp import bindings
from pedsup.engine.llama_cpp.evaluation import EvaluatedModel, Evaluation
from pedsup.errors import EngineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Look = Callable[[ctypes.Structure, str], bool]
"""Called with a computed node and its operation; False ends the pass there."""
Wanted = Callable[[ctypes.Structure, str], bool]
"""Whether `Look` wants to see a node."""
F32: Final = 0
"""GGML_TYPE_F32."""


class Node(ctypes.Structure):
    """`struct ggml_tensor` of ggml.h, llama.cpp 0c1e57098; `check` holds it against the library."""


NodePointer = ctypes.POINTER(Node)
Node._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", NodePointer * 10),
    ("view_src", NodePointer),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
    ("extra", ctypes.c_void_p),
    ("padding", ctypes.c_char * 8),
]


def _check(lib: ModuleType, pointer: ctypes._Pointer[Node]) -> None:
    """Refuse a library whose tensors lie otherwise: name, bytes and rows by its own functions.

    Raises:
        EngineError: the fields are not where we look for them.
    """
    node, handle = pointer.contents, lib._lib
    address = ctypes.cast(pointer, ctypes.c_void_p)
    name, data, rows = handle.ggml_get_name, handle.ggml_get_data, handle.ggml_nrows
    name.argtypes, name.restype = [ctypes.c_void_p], ctypes.c_char_p
    data.argtypes, data.restype = [ctypes.c_void_p], ctypes.c_void_p
    rows.argtypes, rows.restype = [ctypes.c_void_p], ctypes.c_int64
    ours = node.name, node.data, node.ne[1] * node.ne[2] * node.ne[3]
    if ours != (name(address), data(address), rows(address)):
        raise EngineError(
            "this llama.cpp keeps its tensors in another form",
            wanted="the llama.cpp of llama-cpp-python 0.3.36",
            remedy="pip install llama-cpp-python==0.3.36",
        )


def _operation(lib: ModuleType, node: ctypes.Structure) -> str:
    """The operation's name: `MUL_MAT`, `GET_ROWS`, ..."""
    handle = lib._lib.ggml_op_name
    handle.argtypes, handle.restype = [ctypes.c_int], ctypes.c_char_p
    return str(handle(node.op).decode())


def node_values(node: ctypes.Structure) -> NDArray[np.float32]:
    """A float32 tensor in memory as [rows, columns]: a view, good until the callback returns.

    Raises:
        EngineError: it is not float32, or its rows do not lie one after the other.
    """
    columns = node.ne[0]
    rows = node.ne[1] * node.ne[2] * node.ne[3]
    dense = node.nb[0] == 4 and all(
        node.nb[i + 1] == node.nb[i] * node.ne[i] for i in range(3) if node.ne[i + 1] > 1
    )
    if node.type != F32 or not dense or not node.data:
        raise EngineError(f"llama.cpp keeps the activations '{node.name.decode()}' in another form")
    flat = (ctypes.c_float * (rows * columns)).from_address(node.data)
    return np.ctypeslib.as_array(flat).reshape(rows, columns)


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
            pointer = ctypes.cast(address, NodePointer)
            if not self._checked:
                _check(self.lib, pointer)
                self._checked = True
            node = pointer.contents
            kind = _operation(self.lib, node)
            return self._wanted(node, kind) if ask else self._look(node, kind)
        except BaseException as error:
            self._error = error
            return ask  # look at this node, so that the second call can end the pass
