"""A projector made by hand, so that anything in it can be wrong: Gemma 4's tower, tiny."""

from __future__ import annotations

from pedsup_testing.forged_gguf import ARRAY, BOOL, F32, STRING, U32, Array, Forged, Key, Row

WIDTH, FEED, HEADS, PATCH, LAYERS = 32, 64, 2, 4, 2
POSITIONS = 1120 * 3


def gemma4(text_width: int = 32) -> Forged:
    """For a model of so wide embeddings (`forged_gguf.tiny_llama` has 32)."""
    sizes = {
        "projection_dim": text_width, "image_size": 224, "patch_size": PATCH,
        "embedding_length": WIDTH, "feed_forward_length": FEED, "block_count": LAYERS,
        "attention.head_count": HEADS,
    }  # fmt: skip
    keys = (
        Key("general.architecture", STRING, "clip"),
        Key("general.type", STRING, "mmproj"),
        Key("clip.has_vision_encoder", BOOL, True),
        *(Key(f"clip.vision.{name}", U32, value) for name, value in sizes.items()),
        Key("clip.vision.image_mean", ARRAY, Array(F32, [0.0] * 3)),
        Key("clip.vision.image_std", ARRAY, Array(F32, [1.0] * 3)),
        Key("clip.vision.projector_type", STRING, "gemma4v"),
        Key("clip.vision.attention.layer_norm_epsilon", F32, 1e-6),
    )
    rows = [
        Row("mm.input_projection.weight", (WIDTH, text_width)),
        Row("v.patch_embd.weight", (PATCH, PATCH, 3, WIDTH)),
        Row("v.position_embd.weight", (WIDTH, POSITIONS, 2)),
    ]
    block = {
        **{f"attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "out")},
        **{f"attn_{name}_norm": (WIDTH // HEADS,) for name in ("q", "k")},
        **dict.fromkeys(("ln1", "ln2", "attn_post_norm", "ffn_post_norm"), (WIDTH,)),
        "ffn_up": (WIDTH, FEED), "ffn_gate": (WIDTH, FEED), "ffn_down": (FEED, WIDTH),
    }  # fmt: skip
    for layer in range(LAYERS):
        rows += [Row(f"v.blk.{layer}.{name}.weight", dims) for name, dims in block.items()]
    return Forged(keys, tuple(rows))
