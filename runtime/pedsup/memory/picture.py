"""What seeing a picture takes in memory."""

from __future__ import annotations

from typing import Final

from pedsup.gguf_file.projector import Projector

F32: Final = 4
PIXELS: Final = 12 << 20
"""Of a phone's photo: decoded to three bytes each before it is made smaller."""


def projector_bytes(projector: Projector, picture_tokens: int) -> int:
    """Bytes that a projector takes with one picture, at its peak.

    The towers are copied into memory, whatever the model's own weights do. Beside them: a decoded
    photo, the buffer of intermediate results, and the embeddings.
    """
    weights = projector.header.tensor_bytes
    tokens = projector.most_tokens(picture_tokens)
    embeddings = tokens * projector.n_embd_text * F32
    return weights + compute_bytes(projector, picture_tokens) + 3 * PIXELS + embeddings


def compute_bytes(projector: Projector, picture_tokens: int) -> int:
    """The buffer of intermediate results: what is alive per patch, in float32 values."""
    patches = projector.most_patches(picture_tokens)
    return patches * F32 * (6 * projector.n_embd + 2 * projector.n_ff)
