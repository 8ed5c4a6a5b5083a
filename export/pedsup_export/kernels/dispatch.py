"""Which quantizer packs a type: a vector kernel where it gives ggml's bytes here, else ggml.

A kernel does the tame blocks, which are all but a few of a real model's, and marks the odd
ones: blocks of zeros, blocks whose scale rounds to zero, numbers that overflow on the way. What
ggml makes of those depends on conversions that C leaves undefined, so ggml makes it.

The first use of a kernel in a process compares it with ggml on a fixed set of nasty rows. If
this machine's ggml was compiled to other arithmetic (fused multiply-add, say), or the kernel
cannot be compiled here, the type is left to ggml altogether, with a warning in the log.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from pedsup.errors import PedsupError, UsageError
from pedsup.gguf_file.ggml_types import GGMLType
from pedsup_export.kernels import ggml

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.float32]
    Packed = NDArray[np.uint8]

    from pedsup.gguf_file.ggml_types import GGMLType


_WHOLE_ROW: Final = ("Q4_0",)
"""Types whose weighted search looks at the whole row, so that ggml must redo whole rows."""


def read_only(array: Rows) -> Rows:
    """A view for a kernel: numba compiles for read-only arrays apart, and a mapped file's are."""
    view = array.view()
    view.flags.writeable = False
    return view


def redo(
    rows: Rows, kind: GGMLType, importance: Rows | None, out: Packed, odd: NDArray[np.generic]
) -> None:
    """Overwrite the odd blocks of `out` with ggml's.

    Args:
        rows, kind, importance, out: as `ggml.quantize_into`.
        odd: one flag per block, in the order of the weights.
    """
    marked = np.flatnonzero(odd)
    if not marked.size:
        return
    blocks = rows.shape[1] // kind.block_size
    if importance is None:
        _redo_blocks(rows, kind, None, out, marked)
    elif kind.name in _WHOLE_ROW:
        _redo_into(rows, np.unique(marked // blocks), kind, importance, out)
    else:
        for place in np.unique(marked % blocks):
            part = importance[place * kind.block_size : (place + 1) * kind.block_size]
            _redo_blocks(rows, kind, part, out, marked[marked % blocks == place])


def _redo_blocks(
    rows: Rows, kind: GGMLType, importance: Rows | None, out: Packed, marked: NDArray[np.intp]
) -> None:
    """`importance` is that of the columns of the marked blocks."""
    as_rows = rows.reshape(-1, kind.block_size)
    _redo_into(as_rows, marked, kind, importance, out.reshape(-1, kind.type_size))


def _redo_into(
    rows: Rows, marked: NDArray[np.intp], kind: GGMLType, importance: Rows | None, out: Packed
) -> None:
    packed = np.empty((len(marked), out.shape[1]), np.uint8)
    ggml.quantize_into(np.ascontiguousarray(rows[marked]), kind, importance, packed)
    out[marked] = packed


log = logging.getLogger(__name__)

SWITCH: Final = "PEDSUP_KERNELS"
"""Environment variable: `auto` (numba, the default), or `ggml` to use no kernel."""
_MODULES: Final = {
    "Q4_K": "q45_k",
    "Q5_K": "q45_k",
    "Q6_K": "q6_k",
    "Q3_K": "q3_k",
    "Q2_K": "q2_k",
    "Q4_0": "q4_0",
    "Q8_0": "q8_0",
    "IQ4_NL": "iq4",
    "IQ4_XS": "iq4",
}
_UNWEIGHTED: Final = ("Q8_0",)
"""Types for which llama.cpp ignores importances."""


@dataclass(frozen=True)
class Kernel:
    """A kernel that numba compiled."""

    kind: GGMLType
    weighted: bool
    run: Callable[..., None]
    """`run(x, importance, per_row, out, odd)`: x flat float32, importance float32 of one row
    (empty if not weighted), blocks per row, out flat uint8, odd uint8 per block (result)."""

    def quantize_into(
        self, rows: Rows, kind: GGMLType, importance: Rows | None, out: Packed
    ) -> None:
        """As `ggml.quantize_into`, with the same bytes."""
        blocks = rows.shape[1] // kind.block_size
        odd = np.zeros(rows.shape[0] * blocks, np.uint8)
        weights = importance if self.weighted and importance is not None else _NOTHING
        self.run(read_only(rows.reshape(-1)), read_only(weights), blocks, out.reshape(-1), odd)
        redo(rows, kind, None if weights is _NOTHING else weights, out, odd)


_NOTHING: Final = np.empty(0, np.float32)


_found: dict[tuple[str, bool], Kernel | None] = {}
_reasons: dict[tuple[str, bool], str] = {}
_lock = threading.Lock()


def kernel_for(kind: GGMLType, weighted: bool) -> Kernel | None:
    """The kernel for a type, compiled and checked against ggml; None where ggml must do it.

    Raises:
        UsageError: the environment variable PEDSUP_KERNELS has an unknown value.
    """
    switch = os.environ.get(SWITCH, "auto")
    if switch not in ("auto", "ggml"):
        raise UsageError(
            f"{SWITCH}={switch} is unknown", wanted="auto or ggml", remedy=f"unset {SWITCH}"
        )
    if switch == "ggml" or kind.name not in _MODULES:
        return None
    key = kind.name, weighted and kind.name not in _UNWEIGHTED
    with _lock:
        if key not in _found:
            _found[key] = _make(kind, key[1])
        return _found[key]


def why_ggml() -> dict[tuple[str, bool], str]:
    """Types (and whether weighted) that have a kernel which is not used, and why."""
    return dict(_reasons)


def _make(kind: GGMLType, weighted: bool) -> Kernel | None:
    try:
        module = importlib.import_module(f"pedsup_export.kernels.{_MODULES[kind.name]}")
        suffix = "_weighted" if weighted else ""
        made = Kernel(kind, weighted, getattr(module, f"quantize_{kind.name.lower()}{suffix}"))
    except ImportError as error:
        _leave_to_ggml(kind, weighted, f"numba cannot be imported: {error}")
        return None
    try:
        agrees = agrees_with_ggml(made)
    except (PedsupError, MemoryError):
        raise
    # The first call compiles: numba and LLVM each have errors of their own.
    except Exception as error:
        _leave_to_ggml(kind, weighted, f"its kernel does not run here: {type(error).__name__}")
        log.debug("the kernel of %s", kind.name, exc_info=error)
        return None
    if agrees:
        return made
    _leave_to_ggml(kind, weighted, "its bytes differ from those of this machine's ggml")
    return None


def _leave_to_ggml(kind: GGMLType, weighted: bool, reason: str) -> None:
    _reasons[kind.name, weighted] = reason
    log.warning("quantizing %s with ggml's own code: %s", kind.name, reason)


def agrees_with_ggml(made: Kernel) -> bool:
    """Compare a kernel with ggml on `nasty_rows`."""
    rows = nasty_rows()
    importance = nasty_importance(rows.shape[1]) if made.weighted else None
    ours = np.zeros((len(rows), made.kind.row_bytes(rows.shape[1])), np.uint8)
    theirs = ours.copy()
    made.quantize_into(rows, made.kind, importance, ours)
    ggml.quantize_into(rows, made.kind, importance, theirs)
    return bool(np.array_equal(ours, theirs))


def nasty_rows(width: int = 768) -> Rows:
    """Rows that tell one arithmetic from another: float32 [about 100, width], all finite.

    Zeros, constants, ramps, outliers, one sign, ties, subnormals, sizes from 1e-38 to 1e30, and
    enough noise that a single fused operation shows.
    """
    rng = np.random.default_rng(20261123)
    noise = rng.standard_normal((64, width)).astype(np.float32)
    ramp = np.linspace(-1, 1, width, dtype=np.float32)
    ties = np.round(noise[:4] * 4) / np.float32(4)
    outlier = noise[:4] * np.float32(1e-3)
    outlier[:, ::97] = 5
    sparse = np.where(rng.random((4, width)) < 0.05, noise[:4], np.float32(0))
    sizes = np.float32(10.0) ** np.arange(-38, 31, 4, dtype=np.float32)
    with np.errstate(over="ignore", under="ignore"):
        rows = [
            noise * np.float32(0.02),
            np.abs(noise[:4]),
            -np.abs(noise[:4]) - np.float32(1),
            ties,
            outlier,
            sparse,
            sizes[:, None] * noise[: len(sizes)],
            np.stack([ramp, ramp**3, np.zeros_like(ramp), np.full_like(ramp, -0.25)]),
            np.stack([np.full_like(ramp, 3), np.full_like(ramp, 1e-45), ramp * np.float32(1e-40)]),
        ]
    return np.ascontiguousarray(np.concatenate(rows), np.float32)


def nasty_importance(width: int) -> Rows:
    """Importances over many sizes, with zeros: float32 [width]."""
    rng = np.random.default_rng(7)
    values = rng.standard_exponential(width) ** 3
    values[::11] = 0
    values[64:96] = 0
    return values.astype(np.float32)
