"""Whether a base comes from quantization-aware training: judged by its weights alone.

Such a base is stored in 16 bits, and its weights lie on a Q4_0 grid. A name proves nothing, nor do
the missing K and V of KV-shared layers. A few rows of each matrix are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from pedsup.gguf_file.file_types import FileType
from pedsup_export.arch import OutputTensor
from pedsup_export.source.tensor_source import TensorSource
from pedsup_export.types.quantize import grid_share

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIRST: Final = 6
"""Matrices that are looked at before all others: if none is on a grid, the base is a usual one."""
RANGES, ROWS = 4, 2
"""Parts of a matrix that are looked at, and rows of each."""
ENOUGH: Final = 0.99
"""Share of a matrix's blocks that must be on a grid; of weights that are not, none is."""
TABLES: Final = ("token_embd.weight", "per_layer_token_embd.weight", "output.weight")
EXACT: Final = ("Q4_0", "F32", "F16", "BF16", "Q8_0")
"""File types that keep such weights, or nearly."""


@dataclass(frozen=True)
class Grid:
    """What was found.

    Attributes:
        sources: checkpoint tensors on a Q4_0 grid.
        layers: of how many matrices of the layers, and how many of them are on it.
    """

    sources: frozenset[str] = frozenset()
    layers: tuple[int, int] = (0, 0)

    @property
    def is_qat(self) -> bool:
        """Whether most matrices of the layers are on a grid."""
        n_on, n_all = self.layers
        return 2 * n_on > n_all

    def kept(self, source: str | None, *, adapted: bool) -> bool:
        """Whether a tensor's weights in the file are still on the grid."""
        return source in self.sources and not adapted


def find_grid(outputs: Sequence[OutputTensor], tensors: Mapping[str, TensorSource]) -> Grid:
    """Look at the matrices of a model."""
    matrices = [o for o in outputs if o.source and len(o.shape) == 2]
    layers = [o for o in matrices if o.name.startswith("blk.")]
    picks = np.linspace(0, len(layers) - 1, min(FIRST, len(layers))).astype(int)
    first = [layers[i] for i in dict.fromkeys(picks.tolist())]
    if not any(_is_on_grid(o, tensors) for o in first):
        return Grid()
    found = frozenset(str(o.source) for o in matrices if _is_on_grid(o, tensors))
    return Grid(found, (sum(o.source in found for o in layers), len(layers)))


def _is_on_grid(output: OutputTensor, tensors: Mapping[str, TensorSource]) -> bool:
    source = tensors[str(output.source)]
    n_rows = source.shape[0]
    starts = sorted({int(i) for i in np.linspace(0, max(0, n_rows - ROWS), RANGES)})
    parts: list[NDArray[np.float32]] = [
        np.ascontiguousarray(source.rows(lo, min(lo + ROWS, n_rows))) for lo in starts
    ]
    return grid_share(np.concatenate(parts), source.dtype_name) >= ENOUGH


def grid_notes(
    grid: Grid,
    kind: FileType,
    types: Mapping[str, str],
    sources: Mapping[str, str],
    adapted: frozenset[str],
) -> tuple[str, ...]:
    """What to say of such a base.

    Args:
        types: the file's tensors and their types.
        sources: the file's tensors and the checkpoint's.
        adapted: checkpoint tensors that an adapter changes.
    """
    if not grid.is_qat:
        return ()
    notes = []
    if kind.name not in EXACT:
        n_on, n_all = grid.layers
        notes.append(
            f"the base's weights lie on a Q4_0 grid (quantization-aware training: {n_on} of "
            f"{n_all} matrices), and {kind.name} rounds them a second time: --quant Q4_0 keeps "
            "them exactly"
        )
    left = sorted(grid.sources & adapted)
    if left:
        notes.append(
            f"merging takes {len(left)} of the {len(grid.sources)} matrices off the Q4_0 grid of "
            "the base: they are rounded again. pedsup-export adapter writes the adapter as a file "
            "of its own, and the base stays exact"
        )
    if kind.name == "Q4_0":
        elsewhere = [n for n, s in sources.items() if s in grid.sources and types[n] != "Q4_0"]
        notes += _notes_on_types(elsewhere, types, {n for n, s in sources.items() if s in adapted})
    return tuple(notes)


def _notes_on_types(
    elsewhere: Sequence[str], types: Mapping[str, str], adapted: Set[str]
) -> Iterator[str]:
    """On tensors of the grid that a Q4_0 file stores in another type."""
    matrices = [name for name in elsewhere if name not in TABLES and name not in adapted]
    if matrices:
        yield (
            f"{len(matrices)} matrices of the Q4_0 grid get another type, by --imatrix or "
            f"--tensor-type, and are rounded again ({matrices[0]})"
        )
    for name in TABLES:
        if name in elsewhere:
            yield (
                f"{name} lies on a Q4_0 grid too: --tensor-type '^{name}$=Q4_0' keeps it exact in "
                f"fewer bytes than {types[name]}, the type of Google's file"
            )
