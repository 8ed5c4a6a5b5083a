"""Whether a model's sizes and tensors fit together, so that llama.cpp has nothing to assert on."""

from __future__ import annotations

import re
from typing import Final

from pedsup.errors import BadFileError, UnsupportedError
from pedsup.gguf_file.cursor import AGAIN
from pedsup.gguf_file.foreign import is_foreign
from pedsup.gguf_file.ggml_types import NO_WEIGHTS
from pedsup.gguf_file.header import GGUFHeader
from pedsup.gguf_file.rules import (
    ASSISTANT,
    PATTERN,
    SUPPORTED,
    bad_field,
    bad_value,
    check_rules,
    gemma3_sliding,
    per_layer,
    sliding_layers,
)
from pedsup.gguf_file.tensor_table import TensorInfo
from pedsup.messages import as_message, message

EMBEDDING: Final = "token_embd.weight"
_KV_HEADS: Final = "%s.attention.head_count_kv"
_WHOLE_HEADS: Final = frozenset({"llama", "qwen2", "qwen3"})
"""Architectures whose graphs assert that the whole head is rotated."""
_BLOCK: Final = re.compile(r"blk\.(\d{1,9})\.")
_VECTOR: Final = re.compile(r"(?:_norm\.weight|\.bias|\.scale|^rope_[a-z_]+\.weight)$")
"""Names of tensors that are added or multiplied element by element."""


def require_supported(header: GGUFHeader) -> None:
    """Raise `UnsupportedError` for a GGUF that is not a language model that pedsup runs."""
    if header.architecture not in SUPPORTED:
        raise UnsupportedError(
            message(
                "a GGUF of the architecture '{name}'",
                name=header.architecture[:60] or message("unknown"),
            ),
            where=header.path,
            wanted=message("one of: {names}", names=", ".join(SUPPORTED)),
            remedy="a drafter runs beside its model: pedsup-run MODEL.gguf --draft THIS.gguf"
            if header.architecture == ASSISTANT
            else "choose a Gemma, Llama or Qwen model file",
        )


def check_architecture(header: GGUFHeader, *, drafter: bool = False) -> None:
    """Check hyperparameters and tensors against each other, as far as the architecture is known.

    Args:
        drafter: whether it may be one of Gemma 4's drafter models.

    Raises:
        UnsupportedError: another architecture.
        BadFileError: a field or a tensor is impossible.
    """
    if header.get("general.type") == "adapter":
        raise UnsupportedError(
            "this GGUF file is an adapter, not a model",
            where=header.path,
            wanted="the model that the adapter was made for",
            remedy="pedsup-run MODEL.gguf --adapter THIS.gguf",
        )
    assistant = drafter and header.architecture == ASSISTANT
    if is_foreign(header):
        _check_foreign(header)
        return
    if not assistant:
        require_supported(header)
    check_rules(header)
    _check_heads(header)
    _check_experts(header)
    if header.architecture == "gemma3":
        gemma3_sliding(header)
    if header.architecture == "gemma4":
        _check_gemma4(header)
    if assistant:
        _check_assistant(header)
    for tensor in header.tensors.values():
        _check_tensor(header, tensor)
    require_embedding(header)


def _check_foreign(header: GGUFHeader) -> None:
    """Check what holds for any architecture: the rest is left to llama.cpp."""
    check_rules(header)
    for tensor in header.tensors.values():
        _check_layer_and_type(header, tensor)
    require_embedding(header)


def require_embedding(header: GGUFHeader) -> TensorInfo:
    """The token embedding. Raises `BadFileError` if it is missing or of another width."""
    embedding = header.tensors.get(EMBEDDING)
    width = header.get("%s.embedding_length")
    if embedding is None or len(embedding.shape) != 2 or embedding.shape[0] != width:
        raise BadFileError(
            message("the tensor '{name}' is missing", name=EMBEDDING)
            if embedding is None
            else message(
                "the tensor '{name}' has the shape {shape}",
                name=EMBEDDING,
                shape=list(embedding.shape),
            ),
            where=header.path,
            wanted=message("a token embedding matrix with rows of {n}", n=width),
            remedy=AGAIN,
        )
    return embedding


def head_counts(header: GGUFHeader) -> tuple[list[int], list[int]]:
    """Of each layer the heads, and the heads of keys and values."""
    heads = per_layer(header, "%s.attention.head_count")
    return heads, heads if header.get(_KV_HEADS) is None else per_layer(header, _KV_HEADS)


def _check_heads(header: GGUFHeader) -> None:
    heads, kv_heads = head_counts(header)
    for layer, (n_head, n_kv) in enumerate(zip(heads, kv_heads, strict=True)):
        if n_head % n_kv:
            raise bad_field(
                header,
                _KV_HEADS,
                message("is {n} in layer {m}", n=n_kv, m=layer),
                message("a divisor of {n}, the heads", n=n_head),
            )
    default = header.get("%s.embedding_length") // heads[0]
    full = header.get("%s.attention.key_length", default)
    _check_head(header, "", full, default, exact=header.architecture in _WHOLE_HEADS)
    if header.architecture == "qwen2" and full * heads[0] != header.get("%s.embedding_length"):
        width = header.get("%s.embedding_length")
        raise bad_field(
            header,
            "%s.attention.head_count",
            message("is {n}, with heads of {m}", n=heads[0], m=full),
            message("heads that make up {n}, the embedding length", n=width),
        )
    if header.architecture in ("gemma4", ASSISTANT):
        swa = header.get("%s.attention.key_length_swa")
        rotated = header.get("%s.rope.dimension_count", full)
        _check_head(header, "_swa", swa, swa, exact=False, rotated=rotated)


def _check_head(
    header: GGUFHeader,
    suffix: str,
    size: int,
    default: int,
    *,
    exact: bool,
    rotated: int | None = None,
) -> None:
    """Check one head size: keys as long as values, and no more rotated than the whole head."""
    value_key = f"%s.attention.value_length{suffix}"
    rope_key = f"%s.rope.dimension_count{suffix}"
    value = header.get(value_key, default)
    if value != size:
        raise bad_value(header, value_key, value, message("{n}, as the key length is", n=size))
    turned = header.get(rope_key, size if rotated is None else rotated)
    if turned % 2 or turned > size or (exact and turned != size):
        wanted = f"{size}" if exact else message("an even number up to {n}, the head size", n=size)
        raise bad_value(header, rope_key, turned, wanted)


def _check_experts(header: GGUFHeader) -> None:
    """The conditions of `llama_model_base::load_hparams`, which asserts them."""
    n_expert = header.get("%s.expert_count", 0)
    used_key, groups_key = "%s.expert_used_count", "%s.expert_group_count"
    used = max(per_layer(header, used_key)) if header.get(used_key) is not None else 0
    groups = header.get(groups_key, 0)
    if used > n_expert or (n_expert and not used):
        wanted = message("1 to {n}, the number of experts", n=n_expert)
        raise bad_value(header, used_key, used, wanted)
    group_used = header.get("%s.expert_group_used_count", 0)
    divides = groups < 2 or (n_expert % groups == 0 and 0 < group_used < groups)
    if groups and (groups >= n_expert or not divides):
        raise bad_field(
            header,
            groups_key,
            message("is {n}, {m} used", n=groups, m=group_used),
            message("a divisor of {n}", n=n_expert),
        )


def _check_assistant(header: GGUFHeader) -> None:
    """Check that every layer drafts, and that the hidden size at both ends is the target's."""
    sliding_layers(header)
    layers_key, n_layer = "%s.nextn_predict_layers", header.get("%s.block_count")
    if header.get(layers_key) != n_layer:
        raise bad_value(header, layers_key, header.get(layers_key), message("{n}, all", n=n_layer))
    out_key = "%s.embedding_length_out"
    if header.get(out_key) == header.get("%s.embedding_length"):
        raise bad_field(header, out_key, "is the drafter's own", "the hidden size of its target")


def _check_gemma4(header: GGUFHeader) -> None:
    """Which layers slide and which reuse an earlier layer's cache.

    llama.cpp (llama_model::create_memory) takes the last two layers with a cache of their own
    for reuse: the one before last by sliding layers, the last by full ones.
    """
    sliding = sliding_layers(header)
    shared_key = "%s.attention.shared_kv_layers"
    own = len(sliding) - header.get(shared_key, 0)
    if own < 2:
        raise bad_field(
            header,
            shared_key,
            message("leaves {n} layers with a cache", n=own),
            "2 or more of all layers",
        )
    for layer in range(own, len(sliding)):
        source = own - (2 if sliding[layer] else 1)
        if sliding[source] != sliding[layer]:
            raise bad_field(
                header,
                PATTERN,
                message("lets layer {n} reuse the cache of layer {m}", n=layer, m=source),
                "a layer of the same kind",
            )


def _bad_tensor(header: GGUFHeader, tensor: TensorInfo, found: str, wanted: str) -> BadFileError:
    return BadFileError(
        message("tensor '{name}' {problem}", name=tensor.name, problem=as_message(found)),
        where=header.path,
        wanted=wanted,
        remedy=AGAIN,
    )


def _check_layer_and_type(header: GGUFHeader, tensor: TensorInfo) -> None:
    """Check that the layer exists and that its type has a matrix product."""
    block, n_layer = _BLOCK.match(tensor.name), header.get("%s.block_count")
    if block and int(block[1]) >= n_layer:
        raise _bad_tensor(
            header, tensor, "belongs to no layer", message("layers up to {n}", n=n_layer - 1)
        )
    if tensor.type.name in NO_WEIGHTS:
        raise _bad_tensor(header, tensor, _of_type(tensor), "a type for weights")


def _of_type(tensor: TensorInfo) -> str:
    return message("is of type {type}", type=tensor.type.name)


def _check_tensor(header: GGUFHeader, tensor: TensorInfo) -> None:
    """Check that llama.cpp can compute with the type and the number of dimensions."""
    _check_layer_and_type(header, tensor)
    flat = len(tensor.shape) == 1 or _VECTOR.search(tensor.name)
    if flat and tensor.type.name != "F32":
        raise _bad_tensor(header, tensor, _of_type(tensor), "F32, as llama.cpp computes it")
    if len(tensor.shape) > 2 and "_exps." not in tensor.name:
        found = message("has the shape {shape}", shape=list(tensor.shape))
        raise _bad_tensor(header, tensor, found, "a vector or a matrix")
