"""What Gemma 3 and Gemma 4 share: names, towers, kinds of layers, arithmetic."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pedsup_export.arch.base import Config, unsupported

GELU_TANH: Final = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast")
"""transformers' names of the tanh approximation of GELU, which `ggml_gelu` computes."""
FULL, SLIDING = "full_attention", "sliding_attention"
_TOWERS: Final = re.compile(
    r"(vision|audio)_tower\.|\.?embed_(vision|audio)\.|multi_modal_projector\."
)
TOWER_REASON: Final = "vision or audio tower: not part of a text model"
LAYER: Final = ("attn_norm", "attn_q", "attn_q_norm", "attn_output", "post_attention_norm",
                "ffn_norm", "ffn_gate", "ffn_up", "ffn_down", "post_ffw_norm")  # fmt: skip
"""Parts that every layer has, keys and values aside."""


def text_config(config: Mapping[str, object]) -> Config:
    """The text model's part of config.json: `text_config`, or the whole of it."""
    return Config(Config(config).mapping("text_config") or config)


def plain_name(source: str) -> str:
    """The text model's own name for a tensor, as its `ForCausalLM` class would save it."""
    return source.replace("language_model.", "", 1)


def is_tower(source: str) -> bool:
    """Whether a tensor is part of a vision or audio tower, or of its projector."""
    return _TOWERS.search(source) is not None


def refuse_other_arithmetic(text: Config, what: str) -> None:
    """Refuse what llama.cpp's graphs of these models do not compute.

    Raises:
        UnsupportedError: another activation, biases in attention, or attention that looks ahead.
    """
    text.one_of(
        "hidden_activation", GELU_TANH, default=GELU_TANH[0], what="a model with the activation"
    )
    if text.flag("attention_bias", default=False):
        raise unsupported(
            f"a {what} model with biases in its attention ('attention_bias')",
            wanted="attention without biases: llama.cpp has none for this architecture",
        )
    if text.values.get("use_bidirectional_attention") in ("all", True):
        raise unsupported(
            "a model whose attention looks ahead ('use_bidirectional_attention')",
            wanted="causal attention, as llama.cpp runs this architecture",
        )
