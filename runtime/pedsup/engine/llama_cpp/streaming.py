"""Run a model that is larger than memory: keep most layers, let the same few go after each use.

Left alone, the kernel drops the page that was not used for the longest time. A model reads its
weights in a cycle, so that this is always the page needed soonest, and nearly all weights are read
from storage again for each token (llama.cpp pull request #711 has the argument, `memory.paging` the
figures; MADV_SEQUENTIAL on a part of the mapping saved a tenth of the bytes, MADV_RANDOM nothing
and halved the speed). Locking a part in memory would cure it, but apps may lock next to nothing. So
the layers are split once: as many as fit stay untouched; each of the others is dropped from the
page cache when it was computed, and the next of them is asked for meanwhile. The bytes read per
token are then those of the split, and no more.

llama.cpp calls back after chosen nodes of the graph (`cb_eval`); the last node of a layer is named
`l_out-N` in the architectures that we support. Needs no privileges; Linux and Android.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

from pedsup.gguf_file import GGUFHeader

PAGE: Final = mmap.PAGESIZE
MADV_WILLNEED: Final = 3
MADV_DONTNEED: Final = 4
LAYER_END: Final = b"l_out-"

Range = tuple[int, int]
"""First byte of the file, and the byte after the last."""


@dataclass(frozen=True)
class StreamPlan:
    """Which layers are read again for each pass over the weights, and where they are."""

    layers: dict[int, tuple[Range, ...]]
    n_layers: int

    @property
    def n_bytes(self) -> int:
        return sum(end - begin for ranges in self.layers.values() for begin, end in ranges)


def plan_stream(header: GGUFHeader, resident: int, per_layer_table: str) -> StreamPlan:
    """Split the layers so that `resident` bytes of mapped pages are enough.

    The layers that are let go are spread evenly between the others: the next one is read while
    those between are computed. Everything outside of layers (token embedding, output) stays.
    """
    layers: dict[int, list[Range]] = {}
    fixed = 0
    for tensor in header.tensors.values():
        begin = header.data_offset + tensor.offset
        if block := re.match(r"blk\.(\d+)\.", tensor.name):
            layers.setdefault(int(block[1]), []).append((begin, begin + tensor.n_bytes))
        elif tensor.name != per_layer_table:
            fixed += tensor.n_bytes
    sizes = {i: sum(end - begin for begin, end in ranges) for i, ranges in layers.items()}
    room = resident - fixed - 2 * max(sizes.values(), default=0)
    order = sorted(layers)
    n_out = 0
    chosen: list[int] = []
    while sum(sizes.values()) - sum(sizes[i] for i in chosen) > room and n_out < len(order):
        n_out += 1
        chosen = [order[k * len(order) // n_out] for k in range(n_out)]
    return StreamPlan({i: _joined(layers[i]) for i in chosen}, len(order))


def _joined(ranges: list[Range]) -> tuple[Range, ...]:
    """Whole pages only, neighbours as one; a page shared with another layer is left alone."""
    found: list[Range] = []
    for begin, end in sorted(ranges):
        # Tensors are padded to the alignment, less than a page: the padding belongs to both.
        if found and begin - found[-1][1] < PAGE:
            found[-1] = found[-1][0], end
        else:
            found.append((begin, end))
    whole = ((-(-begin // PAGE) * PAGE, end // PAGE * PAGE) for begin, end in found)
    return tuple((begin, end) for begin, end in whole if begin < end)


class LayerStreamer:
    """Lets layers of one mapped model go; make it before the context, `attach` after loading."""

    def __init__(self, lib: ModuleType, plan: StreamPlan, model: Path) -> None:
        self._plan, self._model = plan, model
        self._base: int | None = None
        order = sorted(plan.layers)
        self._next = {layer: order[(k + 1) % len(order)] for k, layer in enumerate(order)}
        libc = ctypes.CDLL(None)
        self._madvise = libc.madvise
        self._madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self._name = lib._lib.ggml_get_name
        self._name.argtypes, self._name.restype = [ctypes.c_void_p], ctypes.c_char_p
        self._fd = os.open(model, os.O_RDONLY | os.O_CLOEXEC)
        self.callback = lib.ggml_backend_sched_eval_callback(self._after)
        """For `llama_context_params.cb_eval`; lives as long as this object."""

    def attach(self) -> None:
        """Find the mapping of the loaded model, and let go what loading has read ahead."""
        self._base = _mapped_at(self._model)
        for layer in self._plan.layers:
            self._let_go(layer)

    def close(self) -> None:
        """Forget the file. The context that calls back must be gone."""
        self._base = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _after(self, node: int, asked: bool, _data: object) -> bool:
        """Called twice per node: is this node wanted, and again when it was computed."""
        name: bytes = self._name(node)
        number = name[len(LAYER_END) :] if name.startswith(LAYER_END) else b""
        # An exception in here would end the pass: views of the node have more in their names.
        layer = int(number) if number.isdigit() else -1
        if layer not in self._plan.layers:
            return not asked
        if not asked and self._base is not None:
            self._let_go(layer)
            self._fetch(self._next[layer])
        return True

    def _let_go(self, layer: int) -> None:
        if self._base is None:
            return
        for begin, end in self._plan.layers[layer]:
            # Mapped pages are not dropped: unmap them from this process first.
            self._madvise(self._base + begin, end - begin, MADV_DONTNEED)
            os.posix_fadvise(self._fd, begin, end - begin, os.POSIX_FADV_DONTNEED)

    def _fetch(self, layer: int) -> None:
        """Start to read a layer; returns before it is there."""
        if self._base is None:
            return
        for begin, end in self._plan.layers[layer]:
            self._madvise(self._base + begin, end - begin, MADV_WILLNEED)


def _mapped_at(model: Path) -> int | None:
    """Where byte 0 of the model would be mapped in this process; None if it is not."""
    path = str(model.resolve())
    try:
        lines = Path("/proc/self/maps").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split(None, 5)
        if len(fields) == 6 and fields[5] == path:
            return int(fields[0].partition("-")[0], 16) - int(fields[2], 16)
    return None
