"""ggml's own quantizers, from the libggml-base that llama-cpp-python carries.

Only libggml-base is loaded, not llama_cpp: that package's import reads every backend and
changes process state. `ctypes` releases the interpreter lock, so threads run in parallel.
ggml aborts the process on a wrong argument; the checks are in `quantize.py`.
"""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pedsup.engine.build_probe import LIBRARY_VARIABLE, library_folder
from pedsup.errors import MissingDependencyError, UnsupportedError
from pedsup.gguf_file.ggml_types import BY_NAME, GGMLType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NAMES: Final = {
    "darwin": ("libggml-base.dylib", "libggml-base.so"),
    "win32": ("ggml-base.dll", "libggml-base.dll"),
}
_ToFloat = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class _TypeTraits(ctypes.Structure):
    """`struct ggml_type_traits` of ggml.h."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", _ToFloat),
        ("from_float_ref", ctypes.c_void_p),
    )


def library_path() -> Path:
    """Where libggml-base lies.

    Raises:
        MissingDependencyError: llama-cpp-python is not installed, or has no library.
    """
    names = _NAMES.get(sys.platform, ("libggml-base.so",))
    folder = library_folder()
    for path in [folder / name for name in names] if folder is not None else ():
        if path.is_file():
            return path
    raise MissingDependencyError(
        "ggml's library is not here",
        where=folder or "the Python package llama_cpp",
        wanted=" or ".join(names),
        remedy="pip install llama-cpp-python==0.3.36 (it compiles; a C compiler and cmake are "
        f"needed), or set {LIBRARY_VARIABLE} to the folder that holds the library",
    )


@lru_cache(maxsize=1)
def load() -> ctypes.CDLL:
    """The library with its prototypes set.

    Raises:
        MissingDependencyError: it is not here or cannot be loaded.
        UnsupportedError: it packs a type in another layout than ours.
    """
    path = library_path()
    try:
        lib = ctypes.CDLL(str(path))
        pointer, i64 = ctypes.c_void_p, ctypes.c_int64
        lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, i64, i64, i64, pointer]
        lib.ggml_quantize_chunk.restype = ctypes.c_size_t
        lib.ggml_quantize_init.argtypes = [ctypes.c_int]
        lib.ggml_quantize_init.restype = None
        lib.ggml_validate_row_data.argtypes = [ctypes.c_int, pointer, ctypes.c_size_t]
        lib.ggml_validate_row_data.restype = ctypes.c_bool
        lib.ggml_get_type_traits.argtypes = [ctypes.c_int]
        lib.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
    except (OSError, AttributeError) as error:
        raise MissingDependencyError(
            f"ggml's library cannot be used: {error}",
            where=path,
            remedy="pip install --force-reinstall llama-cpp-python==0.3.36",
        ) from error
    for kind in (BY_NAME["F32"], BY_NAME["Q4_K"], BY_NAME["IQ4_XS"]):
        traits = lib.ggml_get_type_traits(kind.number).contents
        if (traits.blck_size, traits.type_size) != (kind.block_size, kind.type_size):
            raise UnsupportedError(
                f"this ggml packs {traits.blck_size} weights of {kind.name} "
                f"in {traits.type_size} bytes",
                where=path,
                wanted=f"{kind.block_size} weights in {kind.type_size} bytes",
                remedy="pip install llama-cpp-python==0.3.36",
            )
    return lib


def quantize_into(
    rows: NDArray[np.float32],
    kind: GGMLType,
    importance: NDArray[np.float32] | None,
    out: NDArray[np.uint8],
) -> None:
    """`ggml_quantize_chunk`: pack float32 [n, n_per_row] into uint8 [n, row_bytes], both C order.

    The caller has checked shapes, contiguity and type.
    """
    lib = load()
    n_rows, n_per_row = rows.shape
    if not n_rows:
        return
    # Builds the search grids of the IQ types once; ggml guards it with its own lock.
    lib.ggml_quantize_init(kind.number)
    weights = None if importance is None else importance.ctypes.data
    lib.ggml_quantize_chunk(
        kind.number, rows.ctypes.data, out.ctypes.data, 0, n_rows, n_per_row, weights
    )


def is_valid(packed: NDArray[np.uint8], kind: GGMLType) -> bool:
    """`ggml_validate_row_data`: no scale of the packed rows (C order) is NaN or infinite."""
    return bool(load().ggml_validate_row_data(kind.number, packed.ctypes.data, packed.nbytes))


def dequantize_into(packed: NDArray[np.uint8], kind: GGMLType, out: NDArray[np.float32]) -> None:
    """ggml's `to_float`: uint8 [n, row_bytes] into float32 [n, n_per_row], both C order."""
    traits = load().ggml_get_type_traits(kind.number).contents
    traits.to_float(packed.ctypes.data, out.ctypes.data, out.size)
