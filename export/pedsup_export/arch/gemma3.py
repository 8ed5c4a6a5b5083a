"""Gemma 3 text models (270M to 27B) and MedGemma, alone or inside a multimodal checkpoint.

Five sliding-window layers, then one that sees the whole context; RMS norms whose stored weights are
what they differ from one; two rope bases. Hyperparameters and names follow llama.cpp's converter
(conversion/gemma.py). config.json is read in the spellings of transformers 4 (`rope_theta`,
`rope_local_base_freq`, `rope_scaling`, `sliding_window_pattern`) and 5 (`rope_parameters`,
`layer_types`); what a file leaves out has the default of transformers' `Gemma3TextConfig`, as
Google's own 4B configuration needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pedsup_export.arch.base import (
    Architecture,
    Config,
    ModelTensors,
    OutputTensor,
    Shape,
    unsupported,
)
from pedsup_export.arch.decoder import head_entries, linear_rope
from pedsup_export.arch.gemma_text import (
    FULL,
    LAYER,
    SLIDING,
    TOWER_REASON,
    is_tower,
    plain_name,
    refuse_other_arithmetic,
    text_config,
)
from pedsup_export.arch.placing import TABLES, Layout, layer_names, place, projections
from pedsup_export.gguf.header import KV, f32, u32
from pedsup_export.tokenizer.vocab import sentencepiece_vocabulary

NAME: Final = "gemma3"
FULL_EVERY: Final = 6
"""llama.cpp's graph takes every sixth layer for one of full attention."""
_LAYERS_OF_27B: Final = 62
"""The 27B model, by which llama.cpp recognizes another attention scale."""


@dataclass(frozen=True)
class Hparams:
    """The text model's sizes, one value whatever the spelling of the file."""

    n_layers: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_dim: int
    config: Config


def read_hparams(config: Mapping[str, object]) -> Hparams:
    """Read `config.json` (the whole one, or its `text_config`).

    Raises:
        BadFileError: a field is missing or impossible.
        UnsupportedError: something that llama.cpp's graph of Gemma 3 does not compute.
    """
    text = text_config(config)
    refuse_other_arithmetic(text, "Gemma 3")
    h = Hparams(
        n_layers=text.integer("num_hidden_layers", high=4096),
        n_embd=text.integer("hidden_size", high=1 << 20),
        n_ff=text.integer("intermediate_size", high=1 << 24),
        n_head=text.integer("num_attention_heads", high=4096, default=8),
        n_head_kv=text.integer("num_key_value_heads", high=4096, default=4),
        head_dim=text.integer("head_dim", high=1 << 16, default=256),
        config=text,
    )
    _check_layers(h)
    _check_scale(h)
    if text.values.get("attn_logit_softcapping") is not None:
        raise unsupported(
            "a Gemma 3 model with a cap on its attention scores ('attn_logit_softcapping')",
            wanted="attention without a cap: llama.cpp has none for this architecture",
        )
    return h


def _check_layers(h: Hparams) -> None:
    """Which layers slide is not in the file: llama.cpp counts them itself."""
    every = h.config.integer("sliding_window_pattern", default=FULL_EVERY)
    kinds = h.config.values.get("layer_types") or _kinds(h.n_layers, every)
    if kinds != _kinds(h.n_layers, FULL_EVERY):
        raise unsupported(
            "another order of sliding and full attention layers ('layer_types', "
            "'sliding_window_pattern')",
            wanted=f"full attention in every {FULL_EVERY}th layer of {h.n_layers}, and sliding "
            "attention in the others: llama.cpp computes nothing else",
        )


def _kinds(n_layers: int, every: int) -> list[str]:
    return [SLIDING if (i + 1) % every else FULL for i in range(n_layers)]


def _check_scale(h: Hparams) -> None:
    """The attention scale of models/gemma3.cpp."""
    wanted = h.n_embd // h.n_head if h.n_layers == _LAYERS_OF_27B else h.head_dim
    scalar = h.config.number("query_pre_attn_scalar", 256.0)
    if scalar != wanted:
        raise unsupported(
            f"an attention scale of 1/sqrt({scalar:g}) ('query_pre_attn_scalar')",
            wanted=f"{wanted}: llama.cpp computes nothing else for a model of these sizes",
        )


def _rope(h: Hparams, kind: str) -> Config:
    """Rope settings of one kind of layer, always with `rope_theta` and `rope_type`."""
    text = h.config
    parameters = text.mapping("rope_parameters")
    if parameters and not {FULL, SLIDING} & parameters.keys():
        parameters = {FULL: parameters}
    found = dict(Config(parameters).mapping(kind))
    old_key, default = ("rope_theta", 1e6) if kind == FULL else ("rope_local_base_freq", 1e4)
    if kind == FULL and not parameters:
        found.update(text.mapping("rope_scaling"))
    found.setdefault("rope_theta", text.number(old_key, default))
    found["rope_type"] = found.get("rope_type") or found.get("type") or "default"
    wanted = ("default", "linear") if kind == FULL else ("default",)
    if found["rope_type"] not in wanted:
        raise unsupported(
            f"rope scaling of the type {found['rope_type']!r:.60} for {kind}",
            wanted=" or ".join(wanted),
        )
    return Config(found)


def metadata(config: Mapping[str, object]) -> list[KV]:
    """Hyperparameters of a Gemma 3 file."""
    h = read_hparams(config)
    c, full = h.config, _rope(h, FULL)
    entries = [
        u32("gemma3.block_count", h.n_layers),
        u32("gemma3.context_length", c.integer("max_position_embeddings", default=131072)),
        u32("gemma3.embedding_length", h.n_embd),
        u32("gemma3.feed_forward_length", h.n_ff),
        u32("gemma3.attention.head_count", h.n_head),
        u32("gemma3.attention.head_count_kv", h.n_head_kv),
        *linear_rope(NAME, full.values),
        f32("gemma3.rope.freq_base", full.number("rope_theta")),
        f32("gemma3.rope.freq_base_swa", _rope(h, SLIDING).number("rope_theta")),
        f32("gemma3.attention.layer_norm_rms_epsilon", c.number("rms_norm_eps", 1e-6)),
        *head_entries(NAME, h.head_dim),
        u32("gemma3.attention.sliding_window", c.integer("sliding_window", default=4096)),
    ]
    if c.values.get("final_logit_softcapping"):
        softcap = c.number("final_logit_softcapping")
        entries.append(f32("gemma3.final_logit_softcapping", softcap))
    return entries


def tensors(
    config: Mapping[str, object], shapes: Mapping[str, Shape] | None, n_tokens: int
) -> ModelTensors:
    """Place every checkpoint tensor; towers are listed as dropped."""
    h = read_hparams(config)
    rows, kv_rows = h.n_head * h.head_dim, h.n_head_kv * h.head_dim
    norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
    expected = {
        **projections(h.n_embd, rows, kv_rows, h.n_ff),
        **dict.fromkeys(norms, (h.n_embd,)),
        **dict.fromkeys(("attn_q_norm", "attn_k_norm"), (h.head_dim,)),
    }
    layout = Layout(
        architecture=NAME,
        n_layers=h.n_layers,
        expected=lambda layer: expected,
        required=layer_names(h.n_layers, (*LAYER, "attn_k", "attn_v", "attn_k_norm")),
        tables=dict.fromkeys(TABLES, h.n_embd),
        rest={"output_norm.weight": (h.n_embd,)},
        plain=plain_name,
        left_out=lambda source: TOWER_REASON if is_tower(source) else None,
    )
    return place(layout, shapes, n_tokens, _output)


def _output(name: str, shape: Shape, source: str) -> OutputTensor:
    """`Gemma3RMSNorm` multiplies by one plus its weight, ggml by the weight."""
    return OutputTensor(name, shape, source, shift=1.0 if name.endswith("norm.weight") else 0.0)


ARCHITECTURE = Architecture(
    name=NAME,
    hf_names=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    metadata=metadata,
    tensors=tensors,
    vocabulary=sentencepiece_vocabulary,
    tied_by_default=True,
)
