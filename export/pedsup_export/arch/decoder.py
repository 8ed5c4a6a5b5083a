"""What llama, Qwen2 and Qwen3 share: a plain stack of decoder layers with SiLU-gated networks.

Hyperparameters follow `TextModel.set_gguf_parameters` of llama.cpp's converter
(conversion/base.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pedsup.errors import UnsupportedError
from pedsup_export.arch.base import Config
from pedsup_export.arch.placing import TABLES, Layout, layer_names, projections
from pedsup_export.gguf.header import KV, f32, string, u32

SILU: Final = ("silu", "swish")
LAYER: Final = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate",
                "ffn_up", "ffn_down")  # fmt: skip


def rope_settings(config: Mapping[str, object], kinds: tuple[str, ...]) -> dict[str, object]:
    """Rope settings in transformers 5's spelling, whichever one the file uses.

    Args:
        kinds: rope types that the architecture can have.

    Raises:
        UnsupportedError: another rope type.
    """
    c = Config(config)
    rope = dict(c.mapping("rope_parameters") or c.mapping("rope_scaling"))
    rope.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    if rope["rope_type"] not in kinds:
        raise UnsupportedError(
            f"rope scaling of the type {rope['rope_type']!r}",
            where="config.json of the base",
            wanted=" or ".join((", ".join(kinds[:-1]), kinds[-1])),
        )
    return rope


def linear_rope(architecture: str, rope: Mapping[str, object]) -> list[KV]:
    """The entries of linear rope scaling; [] for another kind."""
    if rope.get("rope_type") != "linear":
        return []
    return [
        string(f"{architecture}.rope.scaling.type", "linear"),
        f32(f"{architecture}.rope.scaling.factor", Config(rope).number("factor")),
    ]


def head_dim(config: Config) -> int:
    """Head size: given, or the hidden size over the heads."""
    heads = config.integer("num_attention_heads", high=4096)
    default = config.integer("hidden_size", high=1 << 20) // heads
    return config.integer("head_dim", high=1 << 16, default=default)


def head_entries(architecture: str, size: int) -> list[KV]:
    """Keys and values of one head size."""
    return [
        u32(f"{architecture}.attention.key_length", size),
        u32(f"{architecture}.attention.value_length", size),
    ]


def decoder_metadata(architecture: str, c: Config, rope_kinds: tuple[str, ...]) -> list[KV]:
    """The hyperparameters that all of these models have."""
    rope = rope_settings(c.values, rope_kinds)
    c.one_of("hidden_act", SILU, default=SILU[0], what="a model with the activation")
    heads = c.integer("num_attention_heads", high=4096)
    kv_heads = c.integer("num_key_value_heads", default=heads)
    return [
        u32(f"{architecture}.block_count", c.integer("num_hidden_layers", high=4096)),
        u32(f"{architecture}.context_length", c.integer("max_position_embeddings")),
        u32(f"{architecture}.embedding_length", c.integer("hidden_size", high=1 << 20)),
        u32(f"{architecture}.feed_forward_length", c.integer("intermediate_size", high=1 << 24)),
        u32(f"{architecture}.attention.head_count", heads),
        u32(f"{architecture}.attention.head_count_kv", kv_heads),
        *linear_rope(architecture, rope),
        f32(f"{architecture}.rope.freq_base", Config(rope).number("rope_theta")),
        f32(f"{architecture}.attention.layer_norm_rms_epsilon", c.number("rms_norm_eps")),
    ]


def decoder_layout(
    architecture: str,
    c: Config,
    head: int,
    more: tuple[str, ...] = (),
    biases: frozenset[str] = frozenset(),
) -> Layout:
    """The tensors of a model.

    Args:
        more: parts of a layer beside `LAYER`, vectors of the head size.
        biases: parts that have a bias.
    """
    n_layers, n_embd = c.integer("num_hidden_layers", high=4096), c.integer("hidden_size")
    heads = c.integer("num_attention_heads")
    kv_rows = c.integer("num_key_value_heads", default=heads) * head
    shapes = {
        **projections(n_embd, heads * head, kv_rows, c.integer("intermediate_size")),
        "attn_norm": (n_embd,),
        "ffn_norm": (n_embd,),
        **dict.fromkeys(more, (head,)),
    }
    required = layer_names(n_layers, LAYER + more)
    required |= {f"blk.{i}.{part}.bias" for i in range(n_layers) for part in biases}
    return Layout(
        architecture=architecture,
        n_layers=n_layers,
        expected=lambda layer: shapes,
        required=required,
        tables=dict.fromkeys(TABLES, n_embd),
        biases=biases,
    )
