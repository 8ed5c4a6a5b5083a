"""Shapes of Gemma 4 for models with random weights: figures need no download."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from transformers import Gemma4TextConfig

E4B: Final[dict[str, int]] = {
    "hidden_size": 2560,
    "num_hidden_layers": 42,
    "intermediate_size": 10240,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "global_head_dim": 512,
    "vocab_size": 262144,
    "vocab_size_per_layer_input": 262144,
    "hidden_size_per_layer_input": 256,
    "num_kv_shared_layers": 18,
    "sliding_window": 512,
    "use_double_wide_mlp": False,
    "max_position_embeddings": 131072,
}
"""7.46 B parameters, 2.82 B of them in the per-layer embedding."""

TINY: Final[dict[str, int]] = {
    **E4B,
    "hidden_size": 64,
    "num_hidden_layers": 8,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "global_head_dim": 32,
    "vocab_size": 512,
    "vocab_size_per_layer_input": 512,
    "hidden_size_per_layer_input": 16,
    "num_kv_shared_layers": 4,
    "sliding_window": 16,
    "max_position_embeddings": 512,
}
"""The same structure in a few hundred thousand parameters, for the CPU and the tests."""

SHAPES: Final = {"e4b": E4B, "tiny": TINY}
FULL_EVERY: Final = {"e4b": 6, "tiny": 4}
"""Every n-th layer attends to the whole context, the others to the sliding window."""


def gemma4_config(shape: str) -> Gemma4TextConfig:
    """A `Gemma4TextConfig` of a shape in `SHAPES`."""
    from transformers import Gemma4TextConfig

    values = SHAPES[shape]
    every = FULL_EVERY[shape]
    layers = ["sliding_attention"] * (every - 1) + ["full_attention"]
    return Gemma4TextConfig(
        **values,
        layer_types=(layers * values["num_hidden_layers"])[: values["num_hidden_layers"]],
        final_logit_softcapping=30.0,
        tie_word_embeddings=True,
        hidden_activation="gelu_pytorch_tanh",
        rms_norm_eps=1e-6,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
        rope_parameters={
            "full_attention": {
                "partial_rotary_factor": 0.25,
                "rope_theta": 1_000_000.0,
                "rope_type": "proportional",
            },
            "sliding_attention": {"rope_theta": 10_000.0, "rope_type": "default"},
        },
    )
