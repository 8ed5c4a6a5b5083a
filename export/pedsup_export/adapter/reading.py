"""Tensors of an adapter, read and checked."""

from __future__ import annotations

from typing import Final

import numpy as np

from pedsup.errors import BadFileError, PedsupError
from pedsup_export.source.floats import Float32Array
from pedsup_export.source.safetensors_file import SafetensorsFile
from pedsup_export.source.tensor_source import PlainSource, whole

AGAIN: Final = "save the adapter again with peft's save_pretrained and copy the whole folder"
EMBEDDINGS: Final = ("embed_tokens", "lm_head")
Parts = dict[str, dict[str, str]]
"""Tensor names by role and module path; of 'whole', by base tensor name."""


def adapter_error(
    kind: type[PedsupError], found: str, file: SafetensorsFile, wanted: str
) -> PedsupError:
    """An error about the adapter's file."""
    return kind(found, where=file.path, wanted=wanted, remedy=AGAIN)


def read_checked(name: str, n_dims: int, file: SafetensorsFile) -> Float32Array:
    """A small tensor as float32, its number of axes and its values checked."""
    entry = file.entry(name)
    if len(entry.shape) != n_dims or 0 in entry.shape:
        raise BadFileError(
            f"tensor '{name}' has shape {list(entry.shape)}",
            where=file.path,
            wanted=f"{n_dims} axes, none empty",
            remedy="with DeepSpeed ZeRO-3 or FSDP gather the parameters before save_pretrained",
        )
    values = whole(PlainSource(file, entry))
    check_finite(values, name, file)
    return values


def check_finite(values: Float32Array, name: str, file: SafetensorsFile) -> None:
    if not np.isfinite(values).all():
        raise BadFileError(
            f"tensor '{name}' holds NaN or Inf",
            where=file.path,
            wanted="finite numbers",
            remedy="the training diverged: use an earlier checkpoint of the adapter",
        )
