"""How many bytes of memory a token reads, from the file's header alone.

Decoding one token reads every weight that is multiplied once, the keys and values of all
positions before it, and single rows of the tables that are only looked up. Bandwidth over these
bytes is a ceiling no program can pass on that memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pedsup.gguf_file import GGUFHeader, TensorInfo
from pedsup.gguf_file.shape import PER_LAYER_TABLE, ModelShape, model_shape

TOKEN_TABLE: Final = "token_embd.weight"
OUTPUT: Final = "output.weight"
F16: Final = 2


@dataclass(frozen=True)
class Traffic:
    """Bytes per decoded token."""

    weights: int
    """Matrices that are multiplied, whole."""
    rows: int
    """The rows used of tables that are looked up."""
    shape: ModelShape

    def cache(self, depth: int) -> int:
        """Keys and values (float16) read at `depth` tokens; layers that share a cache read it too.

        A sliding-window layer reads its window at most.
        """
        total, last = 0, {False: 0, True: 0}
        for layer in self.shape.layers:
            if layer.has_kv:
                last[layer.sliding] = layer.n_embd_k + layer.n_embd_v
            cells = min(depth, self.shape.n_swa) if layer.sliding and self.shape.n_swa else depth
            total += last[layer.sliding] * F16 * cells
        return total

    def decode(self, depth: int) -> int:
        """All bytes one token reads at `depth` tokens of context."""
        return self.weights + self.rows + self.cache(depth)

    def prompt(self, n_tokens: int, n_ubatch: int) -> float:
        """Bytes per prompt token: the weights are read once per micro-batch."""
        passes = -(-n_tokens // n_ubatch)
        return self.weights * passes / n_tokens + self.rows


def traffic(header: GGUFHeader) -> Traffic:
    """Bytes per token of a model. Raises as `model_shape`."""
    tied = OUTPUT not in header.tensors
    weights = rows = 0
    for tensor in header.tensors.values():
        if tensor.name == PER_LAYER_TABLE:
            rows += _row(tensor)
        elif tensor.name == TOKEN_TABLE:
            rows += _row(tensor)
            weights += tensor.n_bytes if tied else 0
        else:
            weights += tensor.n_bytes
    return Traffic(weights, rows, model_shape(header))


def _row(tensor: TensorInfo) -> int:
    return tensor.type.row_bytes(tensor.shape[0])
