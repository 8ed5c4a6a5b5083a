"""`struct ggml_tensor` as llama.cpp's evaluation callback hands it over."""

from __future__ import annotations

import ctypes
from types import ModuleType
from typing import TYPE_CHECKING, Final

import numpy as np

from pedsup.errors import EngineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

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


def check(lib: ModuleType, pointer: ctypes._Pointer[Node]) -> None:
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


def operation(lib: ModuleType, node: ctypes.Structure) -> str:
    """The operation's name: `MUL_MAT`, `GET_ROWS`, ..."""
    handle = lib._lib.ggml_op_name
    handle.argtypes, handle.restype = [ctypes.c_int], ctypes.c_char_p
    return str(handle(node.op).decode())


def values(node: ctypes.Structure) -> NDArray[np.float32]:
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
