"""The llama architecture: Llama 3, SmolLM2 and their kin.

Hyperparameters and tensor names follow llama.cpp's converter (conversion/llama.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pedsup.errors import UnsupportedError
from pedsup_export.arch.base import (
    Architecture,
    Config,
    Dropped,
    ModelTensors,
    OutputTensor,
    Shape,
    check_required,
    check_shape,
    name_map,
    unmapped,
)
from pedsup_export.gguf.header import KV, f32, string, u32
from pedsup_export.tokenizer.vocab import llama_vocabulary

SILU = ("silu", "swish")
_LAYER = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate",
          "ffn_up", "ffn_down")  # fmt: skip


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rope settings in transformers 5's spelling, whichever one the file uses."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    if rope["rope_type"] not in ("default", "linear", "llama3"):
        raise UnsupportedError(
            f"rope scaling of the type {rope['rope_type']!r}",
            where="config.json of the base",
            wanted="default, linear or llama3",
        )
    return rope


def _head_dim(config: Config) -> int:
    heads = config.integer("num_attention_heads", high=4096)
    default = config.integer("hidden_size", high=1 << 20) // heads
    return config.integer("head_dim", high=1 << 16, default=default)


def metadata(config: Mapping[str, Any]) -> list[KV]:
    """Hyperparameters of a llama file."""
    c, rope = Config(config), _rope(config)
    c.one_of("hidden_act", SILU, default=SILU[0], what="a model with the activation")
    heads = c.integer("num_attention_heads", high=4096)
    entries = [
        u32("llama.block_count", c.integer("num_hidden_layers", high=4096)),
        u32("llama.context_length", c.integer("max_position_embeddings")),
        u32("llama.embedding_length", c.integer("hidden_size", high=1 << 20)),
        u32("llama.feed_forward_length", c.integer("intermediate_size", high=1 << 24)),
        u32("llama.attention.head_count", heads),
        u32("llama.attention.head_count_kv", c.integer("num_key_value_heads", default=heads)),
    ]
    if rope["rope_type"] == "linear":
        entries += [
            string("llama.rope.scaling.type", "linear"),
            f32("llama.rope.scaling.factor", Config(rope).number("factor")),
        ]
    entries += [
        f32("llama.rope.freq_base", Config(rope).number("rope_theta")),
        f32("llama.attention.layer_norm_rms_epsilon", c.number("rms_norm_eps")),
    ]
    if config.get("head_dim") is not None:
        entries += [
            u32("llama.attention.key_length", _head_dim(c)),
            u32("llama.attention.value_length", _head_dim(c)),
        ]
    return [
        *entries,
        u32("llama.vocab_size", c.integer("vocab_size", high=1 << 24)),
        u32("llama.rope.dimension_count", _head_dim(c)),
    ]


def rope_factors(config: Mapping[str, Any]) -> np.ndarray | None:
    """Llama 3's per-frequency factors, float32 [head_dim / 2], or None for plain rope.

    Source: `_compute_llama3_parameters` in transformers' modeling_rope_utils.py.
    """
    rope = _rope(config)
    if rope["rope_type"] != "llama3":
        return None
    r, dim = Config(rope), _head_dim(Config(config))
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    frequencies = 1.0 / np.float32(r.number("rope_theta")) ** exponents
    low, high = r.number("low_freq_factor", 1.0), r.number("high_freq_factor", 4.0)
    old_context, factor = r.number("original_max_position_embeddings", 8192), r.number("factor", 8)
    factors = []
    for frequency in frequencies:
        wavelength = 2 * math.pi / float(frequency)
        if wavelength < old_context / high:
            factors.append(1.0)
        elif wavelength > old_context / low:
            factors.append(factor)
        else:
            smooth = (old_context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)


def _expected_shape(name: str, c: Config) -> Shape | None:
    hidden, heads = c.integer("hidden_size"), c.integer("num_attention_heads")
    kv_rows = c.integer("num_key_value_heads", default=heads) * _head_dim(c)
    q_rows, ff = heads * _head_dim(c), c.integer("intermediate_size")
    shapes = {
        "attn_q": (q_rows, hidden),
        "attn_k": (kv_rows, hidden),
        "attn_v": (kv_rows, hidden),
        "attn_output": (hidden, q_rows),
        "ffn_gate": (ff, hidden),
        "ffn_up": (ff, hidden),
        "ffn_down": (hidden, ff),
        "attn_norm": (hidden,),
        "ffn_norm": (hidden,),
    }
    part = name.removesuffix(".weight").rpartition(".")[2]
    return shapes.get(part) if name.startswith("blk.") and name.endswith(".weight") else None


def tensors(config: Mapping[str, Any], shapes: Mapping[str, Shape], n_tokens: int) -> ModelTensors:
    """Place every checkpoint tensor; q and k get their rotary halves interleaved."""
    c = Config(config)
    n_layers = c.integer("num_hidden_layers", high=4096)
    look_up = name_map("llama", n_layers)
    outputs, dropped, unknown = [], [], []
    if (factors := rope_factors(config)) is not None:
        outputs.append(OutputTensor("rope_freqs.weight", factors.shape, None, factors))
    for source, shape in shapes.items():
        if source.endswith(".rotary_emb.inv_freq"):
            dropped.append(Dropped(source, shape, "computed by llama.cpp itself"))
            continue
        if (name := look_up(source)) is None:
            unknown.append(source)
            continue
        if (wanted := _expected_shape(name, c)) is not None:
            check_shape(source, shape, wanted)
        if name in ("token_embd.weight", "output.weight"):
            check_shape(source, shape, (n_tokens, c.integer("hidden_size")))
        rotary = ".attn_q." in name or ".attn_k." in name
        outputs.append(
            OutputTensor(name, shape, source, head_rows=_head_dim(c) if rotary else None)
        )
    if unknown:
        raise unmapped(unknown, "llama")
    required = {f"blk.{i}.{part}.weight" for i in range(n_layers) for part in _LAYER}
    check_required(outputs, required | {"token_embd.weight", "output_norm.weight"})
    return ModelTensors(tuple(outputs), tuple(dropped))


def is_dead(config: Mapping[str, Any], name: str) -> bool:
    """Every tensor of a llama checkpoint is used."""
    return False


ARCHITECTURE = Architecture(
    name="llama",
    hf_names=("LlamaForCausalLM",),
    metadata=metadata,
    tensors=tensors,
    vocabulary=llama_vocabulary,
    is_dead=is_dead,
    tied_by_default=False,
)
