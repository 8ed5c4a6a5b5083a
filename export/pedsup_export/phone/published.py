"""Published models by their configurations: what counts of them, and no tensor.

The sizes are those of google/gemma-4-E4B-it and E2B-it, of google/medgemma-1.5-4b-it (the same as
google/gemma-3-4b-it and google/medgemma-4b-it), google/gemma-3-1b-it and google/gemma-3-270m; tests
hold the tensors that follow from them against transformers.
"""

from __future__ import annotations

from typing import Any, Final

from pedsup_export.arch.gemma_text import FULL, SLIDING

Values = dict[str, Any]


def _kinds(n_layers: int, every: int) -> list[str]:
    """One layer in so many attends to the whole context."""
    return [SLIDING if (i + 1) % every else FULL for i in range(n_layers)]


def _gemma4(n_layers: int, every: int, **sizes: int | bool) -> Values:
    return {
        "architectures": ["Gemma4ForCausalLM"],
        "final_logit_softcapping": 30.0,
        "global_head_dim": 512,
        "head_dim": 256,
        "hidden_size_per_layer_input": 256,
        "layer_types": _kinds(n_layers, every),
        "num_attention_heads": 8,
        "num_hidden_layers": n_layers,
        "rope_parameters": {
            FULL: {"partial_rotary_factor": 0.25, "rope_theta": 1e6, "rope_type": "proportional"},
            SLIDING: {"rope_theta": 1e4, "rope_type": "default"},
        },
        "sliding_window": 512,
        "vocab_size": 262144,
        "vision_config": {
            "model_type": "gemma4_vision", "hidden_size": 768, "intermediate_size": 3072,
            "num_hidden_layers": 16, "num_attention_heads": 12, "num_key_value_heads": 12,
            "head_dim": 64, "patch_size": 16, "position_embedding_size": 10240,
        },
        "audio_config": {
            "model_type": "gemma4_audio", "hidden_size": 1024, "num_hidden_layers": 12,
            "num_attention_heads": 8, "output_proj_dims": 1536,
        },
        **sizes,
    }  # fmt: skip


GEMMA4: Final = {
    "E4B": _gemma4(
        42, 6, num_kv_shared_layers=18, hidden_size=2560, intermediate_size=10240,
        num_key_value_heads=2,
    ),
    "E2B": _gemma4(
        35, 5, num_kv_shared_layers=20, hidden_size=1536, intermediate_size=6144,
        num_key_value_heads=1, use_double_wide_mlp=True,
    ),
}  # fmt: skip
"""The larger one first."""
GEMMA4_PROCESSOR: Final[Values] = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}


def _gemma3(n_layers: int, **sizes: int) -> Values:
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "head_dim": 256,
        "layer_types": _kinds(n_layers, 6),
        "num_attention_heads": 4,
        "num_hidden_layers": n_layers,
        "num_key_value_heads": 1,
        "rope_parameters": {
            FULL: {"rope_type": "default", "rope_theta": 1e6},
            SLIDING: {"rope_type": "default", "rope_theta": 1e4},
        },
        "max_position_embeddings": 32768,
        "sliding_window": 512,
        "vocab_size": 262144,
        **sizes,
    }


_4B: Final[Values] = {
    **_gemma3(34, hidden_size=2560, intermediate_size=10240),
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "rope_parameters": {
        FULL: {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        SLIDING: {"rope_type": "default", "rope_theta": 1e4},
    },
    "max_position_embeddings": 131072,
    "sliding_window": 1024,
    "vocab_size": 262208,  # 262,145 tokens, padded
    "vision_config": {
        "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
        "num_hidden_layers": 27, "num_attention_heads": 16, "image_size": 896, "patch_size": 14,
    },
    "mm_tokens_per_image": 256,
}  # fmt: skip
GEMMA3: Final = {
    "MedGemma 1.5 4B": _4B,
    "MedGemma 4B": _4B,
    "Gemma 3 4B": _4B,
    "Gemma 3 1B": _gemma3(26, hidden_size=1152, intermediate_size=6912),
    "Gemma 3 270M": _gemma3(18, hidden_size=640, intermediate_size=2048),
}
"""By the names that hub ids hold; the two smallest see nothing."""
GEMMA3_PROCESSOR: Final[Values] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
