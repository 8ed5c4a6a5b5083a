"""The towers of Gemma 4 E2B and E4B and of Gemma 3 4B by their sizes: no values.

The sizes are those of the published configurations, which for Gemma 4 are the defaults of
transformers 5.23 (vision 0.17, audio 0.31 billion parameters). A test holds names and shapes
against transformers itself.
"""

from __future__ import annotations

from typing import Final

Shapes = dict[str, tuple[int, ...]]

SIGLIP: Final = {
    "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
    "num_hidden_layers": 27, "num_attention_heads": 16, "image_size": 896, "patch_size": 14,
}  # fmt: skip
GEMMA3_CONFIG: Final[dict[str, object]] = {"vision_config": SIGLIP, "mm_tokens_per_image": 256}
GEMMA3_PROCESSOR: Final[dict[str, object]] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}

_VISION: Final = {
    "model_type": "gemma4_vision", "hidden_size": 768, "intermediate_size": 3072,
    "num_hidden_layers": 16, "num_attention_heads": 12, "num_key_value_heads": 12, "head_dim": 64,
    "patch_size": 16, "position_embedding_size": 10240,
}  # fmt: skip
_AUDIO: Final = {
    "model_type": "gemma4_audio", "hidden_size": 1024, "num_hidden_layers": 12,
    "num_attention_heads": 8, "output_proj_dims": 1536,
}  # fmt: skip
GEMMA4_CONFIG: Final[dict[str, object]] = {"vision_config": _VISION, "audio_config": _AUDIO}
GEMMA4_PROCESSOR: Final[dict[str, object]] = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}


def gemma3_towers(width: int) -> Shapes:
    """Tensors of Gemma 3's vision tower and projection, as transformers saves them.

    Args:
        width: of the text model's embeddings.
    """
    n, ff, patch = 1152, 4304, 14
    linear: Shapes = {
        **{f"self_attn.{part}_proj": (n, n) for part in ("q", "k", "v", "out")},
        "mlp.fc1": (ff, n),
        "mlp.fc2": (n, ff),
    }
    layer: Shapes = {f"{name}.weight": shape for name, shape in linear.items()}
    layer |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    layer |= {f"layer_norm{i}.{part}": (n,) for i in (1, 2) for part in ("weight", "bias")}
    tower, projector = "model.vision_tower", "model.multi_modal_projector"
    return {
        f"{tower}.embeddings.patch_embedding.weight": (n, 3, patch, patch),
        f"{tower}.embeddings.patch_embedding.bias": (n,),
        f"{tower}.embeddings.position_embedding.weight": ((896 // patch) ** 2, n),
        **_layers(f"{tower}.encoder", 27, layer),
        f"{tower}.post_layernorm.weight": (n,),
        f"{tower}.post_layernorm.bias": (n,),
        f"{projector}.mm_input_projection_weight": (n, width),
        f"{projector}.mm_soft_emb_norm.weight": (n,),
    }


def gemma4_towers(width: int) -> Shapes:
    """Tensors of the towers of E2B and E4B, without the bounds of what they clip.

    Args:
        width: of the text model's embeddings.
    """
    n, out = 768, 1536
    return {
        "model.vision_tower.patch_embedder.position_embedding_table": (2, 10240, n),
        "model.vision_tower.patch_embedder.input_proj.weight": (n, 3 * 16 * 16),
        **_layers("model.vision_tower.encoder", 16, _vision_layer(n, 3072)),
        **_audio_tower(1024, out),
        "model.embed_vision.embedding_projection.weight": (width, n),
        "model.embed_audio.embedding_projection.weight": (width, out),
    }


def _vision_layer(n: int, ff: int) -> Shapes:
    norms = ("input", "post_attention", "pre_feedforward", "post_feedforward")
    return {
        **{f"self_attn.{part}_proj.linear.weight": (n, n) for part in "qkvo"},
        **{f"self_attn.{part}_norm.weight": (64,) for part in "qk"},
        **{f"mlp.{part}_proj.linear.weight": (ff, n) for part in ("gate", "up")},
        "mlp.down_proj.linear.weight": (n, ff),
        **{f"{norm}_layernorm.weight": (n,) for norm in norms},
    }


def _audio_tower(n: int, out: int) -> Shapes:
    layer: Shapes = {}
    for half in ("feed_forward1", "feed_forward2"):
        layer[f"{half}.ffw_layer_1.linear.weight"] = (4 * n, n)
        layer[f"{half}.ffw_layer_2.linear.weight"] = (n, 4 * n)
        layer |= {f"{half}.{when}_layer_norm.weight": (n,) for when in ("pre", "post")}
    layer |= {f"self_attn.{part}.linear.weight": (n, n)
              for part in ("q_proj", "k_proj", "v_proj", "post")}  # fmt: skip
    layer |= {
        "self_attn.per_dim_scale": (n // 8,),
        "self_attn.relative_k_proj.weight": (n, n),
        "lconv1d.linear_start.linear.weight": (2 * n, n),
        "lconv1d.linear_end.linear.weight": (n, n),
        "lconv1d.depthwise_conv1d.weight": (n, 1, 5),
        "lconv1d.pre_layer_norm.weight": (n,),
        "lconv1d.conv_norm.weight": (n,),
        **{f"norm_{part}.weight": (n,) for part in ("pre_attn", "post_attn", "out")},
    }
    first = "model.audio_tower.subsample_conv_projection"
    return {
        f"{first}.layer0.conv.weight": (128, 1, 3, 3),
        f"{first}.layer0.norm.weight": (128,),
        f"{first}.layer1.conv.weight": (32, 128, 3, 3),
        f"{first}.layer1.norm.weight": (32,),
        f"{first}.input_proj_linear.weight": (n, 32 * 128 // 4),
        **_layers("model.audio_tower", 12, layer),
        "model.audio_tower.output_proj.weight": (out, n),
        "model.audio_tower.output_proj.bias": (out,),
    }


def _layers(prefix: str, n_layers: int, parts: Shapes) -> Shapes:
    return {
        f"{prefix}.layers.{i}.{name}": shape
        for i in range(n_layers)
        for name, shape in parts.items()
    }
