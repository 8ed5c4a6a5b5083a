"""llama_model_quantize through llama-cpp-python: what llama.cpp itself makes of a GGUF."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_LINE = re.compile(r"\] +(\S+) +- \[.*?\], type = +(\w+), size = [^\n]*?MiB(?: \((\w+)\))?\n")


def _params(
    ftype: int,
    imatrix: Mapping[str, NDArray[np.float32]],
    overrides: Sequence[tuple[str, int]],
) -> tuple[object, list[object]]:
    """The C struct, and what must stay alive beside it."""
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = ftype, 1
    keep: list[object] = [imatrix]
    if imatrix:
        entries = (llama_cpp.llama_model_imatrix_data * (len(imatrix) + 1))()
        for entry, (name, values) in zip(entries, imatrix.items(), strict=False):
            entry.name, entry.size = name.encode(), values.size
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = entries
        keep.append(entries)
    if overrides:
        rows = (llama_cpp.llama_model_tensor_override * (len(overrides) + 1))()
        for row, (pattern, number) in zip(rows, overrides, strict=False):
            row.pattern, row.type = pattern.encode(), number
        params.tt_overrides = rows
        keep.append(rows)
    return params, keep


def _run(source: Path, target: Path, params: object) -> tuple[int, str]:
    """Return code and log of llama_model_quantize."""
    import llama_cpp

    parts: list[bytes] = []

    @llama_cpp.llama_log_callback
    def collect(_level: int, text: bytes, _data: object) -> None:
        parts.append(text)

    llama_cpp.llama_log_set(collect, ctypes.c_void_p(0))
    try:
        code = llama_cpp.llama_model_quantize(
            str(source).encode(), str(target).encode(), ctypes.byref(params)
        )
    finally:
        from llama_cpp._logger import llama_log_callback

        llama_cpp.llama_log_set(llama_log_callback, ctypes.c_void_p(0))
    return code, b"".join(parts).decode()


def chosen_types(
    source: Path,
    ftype: int,
    *,
    has_imatrix: bool = False,
    overrides: Sequence[tuple[str, int]] = (),
) -> dict[str, str]:
    """Tensor name to type name (upper case) as `dry_run` logs them, in llama.cpp's order."""
    imatrix = {"none.weight": np.ones(1, np.float32)} if has_imatrix else {}
    params, keep = _params(ftype, imatrix, overrides)
    params.dry_run = True  # type: ignore[attr-defined]
    code, log = _run(source, source.with_suffix(".unused"), params)
    assert code == 0, log
    del keep
    return {name: (new or old).upper() for name, old, new in _LINE.findall(log)}


def quantize(
    source: Path,
    target: Path,
    ftype: int,
    *,
    imatrix: Mapping[str, NDArray[np.float32]] | None = None,
    overrides: Sequence[tuple[str, int]] = (),
) -> tuple[int, str]:
    """Write `target` with one thread; the return code (0 is success) and the log."""
    params, keep = _params(ftype, imatrix or {}, overrides)
    result = _run(source, target, params)
    del keep
    return result
