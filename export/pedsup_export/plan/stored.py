"""A model as the official converter would have stored it: what llama.cpp's mixture looks at."""

from __future__ import annotations

from collections.abc import Sequence

from pedsup.gguf_file.file_types import FileType
from pedsup.gguf_file.ggml_types import BY_NAME, GGMLType
from pedsup.gguf_file.type_mixture import StoredTensor
from pedsup.gguf_file.type_recipes import ModelShape
from pedsup_export.arch import OutputTensor
from pedsup_export.gguf.header import KV


def stored_type(kind: FileType, dtype: str, merge_dtype: str) -> GGMLType:
    """The type of a matrix that is never quantized.

    With --quant F32, F16 or BF16 it is that type; with a 16-bit --merge-dtype that of the
    intermediate file which the option stands for; else the checkpoint's own (`--outtype auto`).
    """
    if not kind.is_quantized:
        return kind.default
    rounded = {"bfloat16": "BF16", "float16": "F16"}
    sixteen_bit = {"BF16": "BF16", "F16": "F16", "NF4": "BF16", "FP4": "BF16"}
    return BY_NAME[rounded.get(merge_dtype) or sixteen_bit.get(dtype) or "F32"]


def stored_tensor(
    tensor: OutputTensor, kind: FileType, dtype: str, merge_dtype: str
) -> StoredTensor:
    """A tensor as the official converter would have written it."""
    # Norms, vectors and computed tensors are float32 in every GGUF (conversion/base.py).
    plain = (
        len(tensor.shape) <= 1
        or tensor.name.endswith("_norm.weight")
        or not tensor.name.endswith(".weight")
    )
    kept = BY_NAME["F32"] if plain else stored_type(kind, dtype, merge_dtype)
    return StoredTensor(tensor.ggml_shape, kept)


def mixture_shape(hyper: Sequence[KV]) -> ModelShape:
    """What the mixture looks at, from a model's hyperparameter entries."""
    values = {e.key.partition(".")[2]: e.value for e in hyper}
    kv_heads = values["attention.head_count_kv"]
    return ModelShape(
        arch=hyper[0].key.partition(".")[0],
        n_layer=values["block_count"],
        n_head=values["attention.head_count"],
        n_head_kv=kv_heads if isinstance(kv_heads, int) else kv_heads[0],
    )
