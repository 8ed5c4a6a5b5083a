"""The sizes that determine a model's memory, read from a checked GGUF header.

Field names and their defaults: `llama_model::load_hparams` in llama-model.cpp and
`llama_model_gemma4::load_arch_hparams` in models/gemma4.cpp, llama.cpp 0c1e57098.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from pedsup.gguf_file import ArrayValue, GGUFHeader
from pedsup.gguf_file.architecture import head_counts, require_embedding, require_supported
from pedsup.gguf_file.foreign import is_foreign
from pedsup.gguf_file.rules import (
    MAX_WIDTH,
    check_rules,
    gemma3_sliding,
    per_layer,
    sliding_layers,
)

PER_LAYER_TABLE: Final = "per_layer_token_embd.weight"


@dataclass(frozen=True)
class LayerShape:
    """One layer; widths in elements per token."""

    has_kv: bool
    """False where the layer reuses the cache of an earlier one."""
    sliding: bool
    n_embd_q: int
    n_embd_k: int
    n_embd_v: int
    n_ff: int


@dataclass(frozen=True)
class ModelShape:
    """The sizes that decide cache and buffers."""

    architecture: str
    n_embd: int
    n_vocab: int
    n_merges: int
    n_ctx_train: int
    n_swa: int
    """Sliding window in tokens; 0 if there is none."""
    n_embd_per_layer: int
    """Width of the per-layer embeddings of all layers together; 0 if there are none."""
    layers: tuple[LayerShape, ...]


def model_shape(header: GGUFHeader) -> ModelShape:
    """The shape of a model.

    Raises:
        UnsupportedError: another architecture than those that pedsup runs.
        BadFileError: a needed field is missing or impossible.
    """
    foreign = is_foreign(header)
    if not foreign:
        require_supported(header)
    check_rules(header)
    embedding = require_embedding(header)
    layers = _foreign_layers if foreign else _LAYERS.get(header.architecture, _plain_layers)
    merges = header.get("tokenizer.ggml.merges")
    per_layer_width = 0 if foreign else header.get("%s.embedding_length_per_layer_input", 0)
    return ModelShape(
        architecture=header.architecture,
        n_embd=header.get("%s.embedding_length"),
        n_vocab=embedding.shape[1],
        n_merges=len(merges) if isinstance(merges, ArrayValue) else 0,
        n_ctx_train=header.get("%s.context_length"),
        n_swa=0 if foreign else header.get("%s.attention.sliding_window", 0),
        n_embd_per_layer=per_layer_width * header.get("%s.block_count"),
        layers=layers(header),
    )


def _plain_layers(header: GGUFHeader) -> tuple[LayerShape, ...]:
    heads, kv_heads = head_counts(header)
    default = header.get("%s.embedding_length") // heads[0]
    head = header.get("%s.attention.key_length", default)
    head_v = header.get("%s.attention.value_length", default)
    n_ff = per_layer(header, "%s.feed_forward_length")
    return tuple(
        LayerShape(True, False, n * head, n_kv * head, n_kv * head_v, ff)
        for n, n_kv, ff in zip(heads, kv_heads, n_ff, strict=True)
    )


def _gemma3_layers(header: GGUFHeader) -> tuple[LayerShape, ...]:
    pairs = zip(_plain_layers(header), gemma3_sliding(header), strict=True)
    return tuple(replace(layer, sliding=slides) for layer, slides in pairs)


def _gemma4_layers(header: GGUFHeader) -> tuple[LayerShape, ...]:
    heads, kv_heads = head_counts(header)
    n_ff, sliding = per_layer(header, "%s.feed_forward_length"), sliding_layers(header)
    own = len(sliding) - header.get("%s.attention.shared_kv_layers", 0)
    full, swa = (
        [header.get(f"%s.attention.{kind}_length{suffix}") for kind in ("key", "value")]
        for suffix in ("", "_swa")
    )
    layers = []
    for i, slides in enumerate(sliding):
        head_k, head_v = swa if slides else full
        q, k, v = heads[i] * head_k, kv_heads[i] * head_k, kv_heads[i] * head_v
        layers.append(LayerShape(i < own, slides, q, k, v, n_ff[i]))
    return tuple(layers)


def _foreign_layers(header: GGUFHeader) -> tuple[LayerShape, ...]:
    """At least what a layer of an unknown architecture needs, were it plain attention.

    Every layer keeps keys and values of the whole context, as wide as the heads or, without
    them, as the embedding; a recurrent state is smaller. The widest matrix of a layer stands for
    its feed-forward network, the experts used at once included.
    """
    n_embd = header.get("%s.embedding_length")
    heads = _most(header, "%s.attention.head_count") or 1
    kv_heads = _most(header, "%s.attention.head_count_kv") or heads
    sizes = [_most(header, f"%s.attention.{kind}_length") for kind in ("key", "value")]
    kv = max(kv_heads * (max(sizes) or -(-n_embd // heads)), 1)
    matrices = (t.shape for name, t in header.tensors.items() if name.startswith("blk."))
    widest = max((max(shape[:2]) for shape in matrices), default=n_embd)
    experts = _most(header, "%s.expert_used_count") or 1
    q = heads * (max(sizes) or -(-n_embd // heads))
    layer = LayerShape(True, False, q, kv, kv, max(2 * widest, widest * experts))
    return (layer,) * int(header.get("%s.block_count"))


_LAYERS: Final = {"gemma3": _gemma3_layers, "gemma4": _gemma4_layers}


def _most(header: GGUFHeader, key: str) -> int:
    """The largest value of a field of an unknown architecture; 0 where it is not there."""
    value = header.get(key)
    values = value.values() if isinstance(value, ArrayValue) else [value]
    return max((int(v) for v in values if isinstance(v, int) and 0 < v <= MAX_WIDTH), default=0)
