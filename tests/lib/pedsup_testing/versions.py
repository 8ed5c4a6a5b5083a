"""Two versions of a tiny model, as two exports leave them: some blocks differ, and the header."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

from pedsup_testing.forged_gguf import (
    Q4_0_TENSOR,
    Q8_0_TENSOR,
    STRING,
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


def version(
    path: Path, number: int, *, name: str = "Tiny", kept: str = KEPT, manifest: bool = True
) -> Path:
    """The tiny model, version `number`: another tenth of the bytes of all tensors but `kept`."""
    made = tiny_llama()
    for tensor, kind in _TYPES.items():
        made = made.with_row(tensor, kind=kind)
    made = made.with_key("general.name", STRING, name)
    made = made.with_key("tokenizer.chat_template", STRING, TEMPLATE)
    plain = path.with_name(f".{path.name}.plain")
    plain.write_bytes(_with_data(made, number, kept).encode())
    if manifest:
        with_manifest(plain, path)
        plain.unlink()
    else:
        plain.rename(path)
    return path


def _with_data(made: Forged, number: int, kept: str) -> Forged:
    parts = []
    for row in made.rows:
        data = bytearray(random.Random(str(row.name)).randbytes(row.n_bytes))
        if row.name != kept:
            own = random.Random(f"{row.name} {number}")
            for at in own.sample(range(len(data)), len(data) // 10):
                data[at] = (data[at] + own.choice((1, 255, 16, 240))) % 256
        parts.append(bytes(data) + bytes(-len(data) % made.alignment))
    return Forged(made.keys, made.rows, made.alignment, data=b"".join(parts))
