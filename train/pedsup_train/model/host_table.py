"""Gemma 4's table of per-layer embeddings, kept in the computer's memory.

It is 5.3 GiB of an E4B, and a batch reads a few hundred of its 262,144 rows.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Final

from pedsup.optional import require

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Embedding, Module

NAME: Final = "embed_tokens_per_layer"


def move_table_to_host(model: Module) -> int:
    """Move the per-layer table of a Gemma 4 model off the GPU; the bytes that it has (0: no table).

    The weight becomes a plain attribute. It is no longer a parameter, so neither `model.to` nor
    the libraries for several GPUs move or copy it.
    """
    for parent in model.modules():
        table = getattr(parent, NAME, None)
        if table is not None and "weight" in table._parameters:
            weight = table._parameters.pop("weight").data.cpu()
            table.weight = weight
            table.forward = types.MethodType(_look_up, table)
            return int(weight.numel() * weight.element_size())
    return 0


def _look_up(table: Embedding, ids: Tensor) -> Tensor:
    """`Gemma4TextScaledWordEmbedding.forward`, with the rows fetched by the processor."""
    torch = require("torch", extra="train")
    rows = torch.nn.functional.embedding(ids.cpu(), table.weight).to(ids.device)
    scaled: Tensor = rows * table.embed_scale.to(rows.dtype)
    return scaled
