"""Two versions of a tiny model, as two exports leave them: some blocks differ, and the header."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

from pedsup_testing.forged_gguf import (
    Q4_0_TENSOR,
    Q8_0_TENSOR,
    STRING,
    U32,
    Forged,
    tiny_llama,
)
from pedsup_testing.signed_models import TEMPLATE, with_manifest

_TYPES: Final = {
    "token_embd.weight": Q8_0_TENSOR,  # 290 rows of 34 bytes: padding follows
    "blk.0.attn_q.weight": Q4_0_TENSOR,
    "blk.0.ffn_down.weight": Q4_0_TENSOR,
    "blk.1.ffn_up.weight": Q8_0_TENSOR,
    "blk.1.attn_k.weight": Q4_0_TENSOR,
}
KEPT: Final = "blk.1.ffn_gate.weight"
"""A tensor that no version changes."""


def version(path: Path, number: int, *, name: str = "Tiny", feed_forward: int = 64) -> Path:
    """The tiny model, version `number`: another tenth of the bytes of all tensors but `KEPT`.

    Args:
        feed_forward: its width; a million makes a file of 80 MB.
    """
    made = tiny_llama().with_key("llama.feed_forward_length", U32, feed_forward)
    for layer in range(2):
        for part, dims in (
            ("gate", (32, feed_forward)), ("up", (32, feed_forward)), ("down", (feed_forward, 32))
        ):  # fmt: skip
            row = f"blk.{layer}.ffn_{part}.weight"
            made = made.with_row(row, dims=dims, kind=Q4_0_TENSOR if feed_forward > 64 else 0)
    for tensor, kind in _TYPES.items():
        made = made.with_row(tensor, kind=kind)
    made = made.with_key("general.name", STRING, name)
    made = made.with_key("tokenizer.chat_template", STRING, TEMPLATE)
    plain = path.with_name(f".{path.name}.plain")
    plain.write_bytes(_with_data(made, number).encode())
    with_manifest(plain, path)
    plain.unlink()
    return path


def _with_data(made: Forged, number: int) -> Forged:
    parts = []
    for row in made.rows:
        data = bytearray(random.Random(str(row.name)).randbytes(row.n_bytes))
        if row.name != KEPT:
            for first, step in ((number, 1), (number + 9, 240)):
                added = bytes((value + step) % 256 for value in range(256))
                data[first::20] = data[first::20].translate(added)
        parts.append(bytes(data) + bytes(-len(data) % made.alignment))
    return Forged(made.keys, made.rows, made.alignment, data=b"".join(parts))
