"""Sizes of the Gemma 4 models with random weights that figures are measured on."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from pedsup_maintain.synthetic.shapes import Shape, model_tensors

SIZES: Final = {
    "tiny": Shape(
        n_layers=8, n_shared=4, full_every=4, vocab=4096, hidden=256, feed_forward=512, n_heads=4,
        head_dim=64, global_head_dim=128, per_layer=32, sliding_window=16, context=2048,
    ),
    # E4B's widths, so that the kernels see its rows; fewer layers and a smaller vocabulary.
    "2GB": Shape(n_layers=8, n_shared=4, full_every=4, vocab=65536),
    "15GB": Shape(),
}  # fmt: skip


def model_bytes(shape: Shape) -> int:
    """Bytes of the weights in bf16."""
    return 2 * sum(t.n_values for t in model_tensors(shape))


def describe(shape: Shape) -> dict[str, object]:
    """The sizes of a shape, for a report."""
    return {**asdict(shape), "parameters": model_bytes(shape) // 2, "bytes": model_bytes(shape)}
