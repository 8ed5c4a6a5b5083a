"""Gemma 3 and MedGemma by their sizes: shapes, tensor names and config, no values.

The sizes are those of the published configurations: google/medgemma-1.5-4b-it (the same as
google/gemma-3-4b-it and google/medgemma-4b-it), google/gemma-3-1b-it and google/gemma-3-270m. The
tensor list and the config are those that transformers 5.23 saves for `Gemma3ForCausalLM`; a test
holds them against transformers itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pedsup_export.arch.gemma_text import FULL, SLIDING

FULL_EVERY: Final = 6


@dataclass(frozen=True)
class Shape:
    """Sizes of a Gemma 3 text model; the defaults are the 4B's."""

    n_layers: int = 34
    vocab: int = 262208
    """Rows of the token embeddings: 262,145 tokens, padded."""
    hidden: int = 2560
    feed_forward: int = 10240
    n_heads: int = 8
    n_kv_heads: int = 4
    head_dim: int = 256
    sliding_window: int = 1024
    context: int = 131072
    rope_factor: float | None = 8.0
    """Linear scaling of the full-attention layers' positions."""


GEMMA3_4B: Final = Shape()
GEMMA3_1B: Final = Shape(
    n_layers=26, vocab=262144, hidden=1152, feed_forward=6912, n_heads=4, n_kv_heads=1,
    sliding_window=512, context=32768, rope_factor=None,
)  # fmt: skip
GEMMA3_270M: Final = Shape(
    n_layers=18, vocab=262144, hidden=640, feed_forward=2048, n_heads=4, n_kv_heads=1,
    sliding_window=512, context=32768, rope_factor=None,
)  # fmt: skip


def tensor_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Every tensor that transformers saves for this `Gemma3ForCausalLM`."""
    hidden, head = shape.hidden, (shape.head_dim,)
    q, kv = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (q, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, q),
        "self_attn.q_norm": head,
        "self_attn.k_norm": head,
        "mlp.gate_proj": (shape.feed_forward, hidden),
        "mlp.up_proj": (shape.feed_forward, hidden),
        "mlp.down_proj": (hidden, shape.feed_forward),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
        "pre_feedforward_layernorm": (hidden,),
        "post_feedforward_layernorm": (hidden,),
    }
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocab, hidden)}
    for i in range(shape.n_layers):
        found |= {f"model.layers.{i}.{name}.weight": size for name, size in layer.items()}
    return {**found, "model.norm.weight": (hidden,)}


def text_config(shape: Shape) -> dict[str, object]:
    """`config.json` as transformers 5.23 writes it for `Gemma3ForCausalLM`, what counts of it."""
    full: dict[str, object] = {"rope_type": "default", "rope_theta": 1e6}
    if shape.rope_factor is not None:
        full |= {"rope_type": "linear", "factor": shape.rope_factor}
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "attention_bias": False,
        "head_dim": shape.head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "layer_types": [SLIDING if (i + 1) % FULL_EVERY else FULL for i in range(shape.n_layers)],
        "max_position_embeddings": shape.context,
        "model_type": "gemma3_text",
        "num_attention_heads": shape.n_heads,
        "num_hidden_layers": shape.n_layers,
        "num_key_value_heads": shape.n_kv_heads,
        "query_pre_attn_scalar": shape.head_dim,
        "rms_norm_eps": 1e-06,
        "rope_parameters": {
            FULL: full,
            SLIDING: {"rope_type": "default", "rope_theta": 10000.0},
        },
        "sliding_window": shape.sliding_window,
        "tie_word_embeddings": True,
        "vocab_size": shape.vocab,
    }
