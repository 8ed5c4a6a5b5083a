"""Gemma 4 by its sizes: shapes, tensor names and config, no values.

The tensor list and the config are those that transformers 5.23 saves for `Gemma4ForCausalLM`;
a test holds them against transformers itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Final

from pedsup_export.arch.gemma_text import FULL, SLIDING

TRANSFORMERS_VERSION: Final = "5.23.0"


@dataclass(frozen=True)
class Shape:
    """Sizes of a Gemma 4 text model; the defaults are E4B's."""

    n_layers: int = 42
    n_shared: int = 18
    """Last layers that use the keys and values of earlier ones."""
    full_every: int = 6
    """One layer in so many attends to the whole context."""
    vocab: int = 262144
    hidden: int = 2560
    feed_forward: int = 10240
    n_heads: int = 8
    n_kv_heads: int = 2
    head_dim: int = 256
    global_head_dim: int = 512
    per_layer: int = 256
    sliding_window: int = 512
    context: int = 131072
    double_wide: bool = False
    """Whether the feed-forward network of the KV-shared layers is twice as wide."""

    def is_full(self, layer: int) -> bool:
        """Whether a layer attends to the whole context (and has the larger heads)."""
        return layer % self.full_every == self.full_every - 1

    def layer_head_dim(self, layer: int) -> int:
        """Head size of a layer."""
        return self.global_head_dim if self.is_full(layer) else self.head_dim

    def layer_feed_forward(self, layer: int) -> int:
        """Width of a layer's feed-forward network."""
        wide = self.double_wide and layer >= self.n_layers - self.n_shared
        return self.feed_forward * (2 if wide else 1)


E4B: Final = Shape()
E2B: Final = Shape(
    n_layers=35, n_shared=20, full_every=5, hidden=1536, feed_forward=6144, n_kv_heads=1,
    double_wide=True,
)  # fmt: skip


@dataclass(frozen=True)
class TensorSpec:
    """One tensor to write: its name, shape, and whether its values lie around one (a norm)."""

    name: str
    shape: tuple[int, ...]
    is_norm: bool = False

    @property
    def n_values(self) -> int:
        return prod(self.shape)


def projections(shape: Shape, layer: int) -> dict[str, tuple[int, int]]:
    """The linear modules of a layer that an adapter targets: name -> (out, in) features.

    A KV-shared layer has no key and value projection: they would be unused.
    """
    heads = shape.layer_head_dim(layer)
    q, kv = shape.n_heads * heads, shape.n_kv_heads * heads
    wide = shape.layer_feed_forward(layer)
    found = {
        "self_attn.q_proj": (q, shape.hidden),
        "self_attn.k_proj": (kv, shape.hidden),
        "self_attn.v_proj": (kv, shape.hidden),
        "self_attn.o_proj": (shape.hidden, q),
        "mlp.gate_proj": (wide, shape.hidden),
        "mlp.up_proj": (wide, shape.hidden),
        "mlp.down_proj": (shape.hidden, wide),
    }
    if layer >= shape.n_layers - shape.n_shared:
        del found["self_attn.k_proj"], found["self_attn.v_proj"]
    return found


def _layer_tensors(shape: Shape, layer: int) -> Iterator[TensorSpec]:
    prefix, hidden = f"model.layers.{layer}", shape.hidden
    for name, size in projections(shape, layer).items():
        yield TensorSpec(f"{prefix}.{name}.weight", size)
    yield TensorSpec(f"{prefix}.per_layer_input_gate.weight", (shape.per_layer, hidden))
    yield TensorSpec(f"{prefix}.per_layer_projection.weight", (hidden, shape.per_layer))
    for name in ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm",
                 "post_feedforward_layernorm", "post_per_layer_input_norm"):  # fmt: skip
        yield TensorSpec(f"{prefix}.{name}.weight", (hidden,), is_norm=True)
    heads = (shape.layer_head_dim(layer),)
    yield TensorSpec(f"{prefix}.self_attn.q_norm.weight", heads, is_norm=True)
    if layer < shape.n_layers - shape.n_shared:
        yield TensorSpec(f"{prefix}.self_attn.k_norm.weight", heads, is_norm=True)
    yield TensorSpec(f"{prefix}.layer_scalar", (1,), is_norm=True)


def model_tensors(shape: Shape) -> list[TensorSpec]:
    """Every tensor that transformers saves for this `Gemma4ForCausalLM`, in one order."""
    table = shape.n_layers * shape.per_layer
    return [
        TensorSpec("model.embed_tokens.weight", (shape.vocab, shape.hidden)),
        TensorSpec("model.embed_tokens_per_layer.weight", (shape.vocab, table)),
        TensorSpec("model.per_layer_model_projection.weight", (table, shape.hidden)),
        TensorSpec("model.per_layer_projection_norm.weight", (shape.per_layer,), is_norm=True),
        *(t for layer in range(shape.n_layers) for t in _layer_tensors(shape, layer)),
        TensorSpec("model.norm.weight", (shape.hidden,), is_norm=True),
    ]


_FIXED: Final[dict[str, object]] = {
    "architectures": ["Gemma4ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attention_k_eq_v": False,
    "bos_token_id": 2,
    "dtype": "bfloat16",
    "enable_moe_block": False,
    "eos_token_id": 1,
    "final_logit_softcapping": 30.0,
    "hidden_activation": "gelu_pytorch_tanh",
    "initializer_range": 0.02,
    "model_type": "gemma4_text",
    "moe_intermediate_size": None,
    "num_experts": None,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {
        FULL: {
            "partial_rotary_factor": 0.25,
            "rope_theta": 1000000.0,
            "rope_type": "proportional",
        },
        SLIDING: {"rope_theta": 10000.0, "rope_type": "default"},
    },
    "tie_word_embeddings": True,
    "top_k_experts": None,
    "transformers_version": TRANSFORMERS_VERSION,
    "use_bidirectional_attention": None,
    "use_cache": True,
}
"""What `config.json` says of every Gemma 4 text model, whatever its size."""


def text_config(shape: Shape) -> dict[str, object]:
    """`config.json` as transformers 5.23 writes it for `Gemma4ForCausalLM`, keys in its order."""
    digits = len(str(shape.n_layers - 1))
    full = [i for i in range(shape.n_layers) if shape.is_full(i)]
    sized = {
        "head_dim": shape.head_dim,
        "hidden_size": shape.hidden,
        "hidden_size_per_layer_input": shape.per_layer,
        "intermediate_size": shape.feed_forward,
        "layer_types": [FULL if i in full else SLIDING for i in range(shape.n_layers)],
        "max_position_embeddings": shape.context,
        "num_attention_heads": shape.n_heads,
        "num_hidden_layers": shape.n_layers,
        "num_key_value_heads": shape.n_kv_heads,
        "num_kv_shared_layers": shape.n_shared,
        "per_layer_config": {f"{i:0{digits}d}": {"head_dim": shape.global_head_dim} for i in full},
        "sliding_window": shape.sliding_window,
        "use_double_wide_mlp": shape.double_wide,
        "vocab_size": shape.vocab,
        "vocab_size_per_layer_input": shape.vocab,
    }
    return dict(sorted({**_FIXED, **sized}.items()))
