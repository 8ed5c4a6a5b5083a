"""Qwen2 (and 2.5) and Qwen3 models without experts.

Both are llama's layers; Qwen2 has biases on queries, keys and values, Qwen3 norms on queries and
keys and a head size of its own. Hyperparameters and names follow llama.cpp's converter
(conversion/qwen.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pedsup_export.arch.base import Architecture, Config, ModelTensors, Shape, unsupported
from pedsup_export.arch.decoder import (
    decoder_layout,
    decoder_metadata,
    head_dim,
    head_entries,
)
from pedsup_export.arch.placing import place
from pedsup_export.gguf.header import KV
from pedsup_export.tokenizer.vocab import byte_level_vocabulary

QWEN2, QWEN3 = "qwen2", "qwen3"
ROPE: Final = ("default", "linear")
_BIASES: Final = frozenset({"attn_q", "attn_k", "attn_v"})
_NORMS: Final = ("attn_q_norm", "attn_k_norm")
_QWEN3_HEAD: Final = 128
"""transformers' default of `head_dim` in Qwen3."""


def _refuse_windows(c: Config) -> None:
    """llama.cpp's graphs of these models attend to the whole context."""
    given = c.values.get("layer_types")
    kinds = given if isinstance(given, list) and given else ["full_attention"]
    if c.flag("use_sliding_window", default=False) or {*kinds} != {"full_attention"}:
        raise unsupported(
            "a Qwen model with sliding-window attention ('use_sliding_window', 'layer_types')",
            wanted="full attention in every layer: llama.cpp computes nothing else",
        )


def _qwen2_head(c: Config) -> int:
    size, hidden = head_dim(c), c.integer("hidden_size", high=1 << 20)
    if size * c.integer("num_attention_heads", high=4096) != hidden:
        raise unsupported(
            f"a Qwen2 model whose heads of {size} do not make up its hidden size of {hidden}",
            wanted="a hidden size of heads times head size: llama.cpp loads nothing else",
        )
    return size


def qwen2_metadata(config: Mapping[str, object]) -> list[KV]:
    """Hyperparameters of a Qwen2 file."""
    c = Config(config)
    _refuse_windows(c)
    size = _qwen2_head(c)
    given = head_entries(QWEN2, size) if config.get("head_dim") is not None else []
    return [*decoder_metadata(QWEN2, c, ROPE), *given]


def qwen2_tensors(
    config: Mapping[str, object], shapes: Mapping[str, Shape] | None, n_tokens: int
) -> ModelTensors:
    """Place every checkpoint tensor of a Qwen2 model."""
    c = Config(config)
    layout = decoder_layout(QWEN2, c, _qwen2_head(c), biases=_BIASES)
    return place(layout, shapes, n_tokens)


def _qwen3_head(c: Config) -> int:
    return c.integer("head_dim", high=1 << 16, default=_QWEN3_HEAD)


def qwen3_metadata(config: Mapping[str, object]) -> list[KV]:
    """Hyperparameters of a Qwen3 file."""
    c = Config(config)
    _refuse_windows(c)
    if c.flag("attention_bias", default=False):
        raise unsupported(
            "a Qwen3 model with biases in its attention ('attention_bias')",
            wanted="attention without biases: pedsup knows no such model",
        )
    return [*decoder_metadata(QWEN3, c, ROPE), *head_entries(QWEN3, _qwen3_head(c))]


def qwen3_tensors(
    config: Mapping[str, object], shapes: Mapping[str, Shape] | None, n_tokens: int
) -> ModelTensors:
    """Place every checkpoint tensor of a Qwen3 model."""
    c = Config(config)
    return place(decoder_layout(QWEN3, c, _qwen3_head(c), _NORMS), shapes, n_tokens)


ARCHITECTURES = tuple(
    Architecture(
        name=name,
        hf_names=(hf_name,),
        metadata=metadata,
        tensors=tensors,
        vocabulary=byte_level_vocabulary,
        tied_by_default=False,
    )
    for name, hf_name, metadata, tensors in (
        (QWEN2, "Qwen2ForCausalLM", qwen2_metadata, qwen2_tensors),
        (QWEN3, "Qwen3ForCausalLM", qwen3_metadata, qwen3_tensors),
    )
)
