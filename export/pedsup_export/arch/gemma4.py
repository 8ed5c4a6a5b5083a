"""Gemma 4 text models of the E2B and E4B kind, alone or inside a multimodal checkpoint.

Two head sizes (sliding and full attention), KV-shared layers at the end, a table of per-layer
embeddings, a softcap, an output head that is usually the token embeddings. Hyperparameters and
names follow llama.cpp's converter (conversion/gemma.py). config.json is read in both spellings that
transformers has used: `global_head_dim` and, from 5.x on, `per_layer_config` with the layer as the
key ("5" or "05").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from pedsup.gguf_file import ValueType
from pedsup_export.arch.base import (
    Architecture,
    Config,
    Dropped,
    ModelTensors,
    OutputTensor,
    Shape,
    name_map,
    unsupported,
)
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
from pedsup_export.gguf.header import KV, array, f32, u32
from pedsup_export.tokenizer.vocab import gemma4_vocabulary

_KV_MODULE = re.compile(r"layers\.(\d+)\.self_attn\.(k_proj|v_proj|k_norm|v_norm)\b")
_OWN_KV = ("attn_k", "attn_v", "attn_k_norm")
"""Parts that a layer without keys and values of its own does not have."""
_LAYER_PER_LAYER_INPUT = ("inp_gate", "proj", "post_norm")


@dataclass(frozen=True)
class Hparams:
    """The text model's hyperparameters, one value whatever the spelling of the file."""

    n_layers: int
    n_embd: int
    n_ff: tuple[int, ...]
    n_head: int
    n_head_kv: tuple[int, ...]
    head_dim_sliding: int
    head_dim_full: int
    sliding: tuple[bool, ...]
    n_shared: int
    n_per_layer_input: int
    config: Config

    @property
    def first_shared(self) -> int:
        """The first layer without its own key and value."""
        return self.n_layers - self.n_shared

    def head_dim(self, layer: int) -> int:
        """Head size of a layer."""
        return self.head_dim_sliding if self.sliding[layer] else self.head_dim_full


def read_hparams(config: Mapping[str, object]) -> Hparams:
    """Read `config.json` (the whole one, or its `text_config`).

    Raises:
        BadFileError: a field is missing or impossible.
        UnsupportedError: a feature of the larger models (experts, keys used as values).
    """
    text = text_config(config)
    _refuse_larger_models(text)
    refuse_other_arithmetic(text, "Gemma 4")
    n_layers = text.integer("num_hidden_layers", high=4096)
    kinds = text.values.get("layer_types")
    if not isinstance(kinds, list) or len(kinds) != n_layers or not {*kinds} <= {FULL, SLIDING}:
        raise unsupported(
            "'layer_types' is missing or holds something else than full and sliding attention",
            wanted=f"a list of {n_layers} layer types",
        )
    n_shared = text.integer("num_kv_shared_layers", low=0, high=n_layers, default=0)
    ff = text.integer("intermediate_size", high=1 << 24)
    wide = bool(text.values.get("use_double_wide_mlp"))
    heads_kv = text.integer("num_key_value_heads", high=4096)
    heads_kv_full = _full_layer_value(text, kinds, "num_global_key_value_heads",
                                      "num_key_value_heads") or heads_kv  # fmt: skip
    head_dim = text.integer("head_dim", high=1 << 16)
    return Hparams(
        n_layers=n_layers,
        n_embd=text.integer("hidden_size", high=1 << 20),
        n_ff=tuple(ff * (2 if wide and i >= n_layers - n_shared else 1) for i in range(n_layers)),
        n_head=text.integer("num_attention_heads", high=4096),
        n_head_kv=tuple(heads_kv if kind == SLIDING else heads_kv_full for kind in kinds),
        head_dim_sliding=head_dim,
        head_dim_full=_full_layer_value(text, kinds, "global_head_dim", "head_dim") or head_dim,
        sliding=tuple(kind == SLIDING for kind in kinds),
        n_shared=n_shared,
        n_per_layer_input=text.integer("hidden_size_per_layer_input", low=0, default=0),
        config=text,
    )


def _refuse_larger_models(text: Config) -> None:
    for key, what in (
        ("enable_moe_block", "experts"),
        ("attention_k_eq_v", "keys that are used as values"),
    ):
        if text.values.get(key):
            raise unsupported(
                f"a Gemma 4 model with {what} ('{key}')",
                wanted="an E2B or E4B model: the larger ones do not run on a phone",
            )


def _full_layer_value(text: Config, kinds: list[str], key: str, layer_key: str) -> int | None:
    """A value of the full-attention layers: `key` at the top, or `layer_key` per layer."""
    if text.values.get(key) is not None:
        return text.integer(key, high=1 << 16)
    for number, overrides in text.mapping("per_layer_config").items():
        layer = int(number) if str(number).isdecimal() else -1
        if not isinstance(overrides, Mapping) or not 0 <= layer < len(kinds):
            continue
        if kinds[layer] == FULL and layer_key in overrides:
            return Config(overrides).integer(layer_key, high=1 << 16)
    return None


def _rope(h: Hparams, kind: str) -> Config:
    rope = h.config.mapping("rope_parameters").get(kind)
    wanted = "proportional" if kind == FULL else "default"
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != wanted:
        raise unsupported(
            f"rope_parameters for {kind}: {rope!r}",
            wanted=f"rope_type {wanted!r}",
        )
    return Config(rope)


def metadata(config: Mapping[str, object]) -> list[KV]:
    """Hyperparameters of a Gemma 4 file."""
    h = read_hparams(config)
    c = h.config
    ff: KV = u32("gemma4.feed_forward_length", h.n_ff[0])
    if c.values.get("use_double_wide_mlp"):
        ff = array("gemma4.feed_forward_length", ValueType.INT32, list(h.n_ff))
    kv: KV = u32("gemma4.attention.head_count_kv", h.n_head_kv[0])
    if len({*h.n_head_kv}) > 1:
        kv = array("gemma4.attention.head_count_kv", ValueType.INT32, list(h.n_head_kv))
    entries = [
        u32("gemma4.block_count", h.n_layers),
        u32("gemma4.context_length", c.integer("max_position_embeddings", default=131072)),
        u32("gemma4.embedding_length", h.n_embd),
        ff,
        u32("gemma4.attention.head_count", h.n_head),
        kv,
        f32("gemma4.rope.freq_base", _rope(h, FULL).number("rope_theta")),
        f32("gemma4.rope.freq_base_swa", _rope(h, SLIDING).number("rope_theta")),
        f32("gemma4.attention.layer_norm_rms_epsilon", c.number("rms_norm_eps", 1e-6)),
        u32("gemma4.attention.key_length", h.head_dim_full),
        u32("gemma4.attention.value_length", h.head_dim_full),
        u32("gemma4.attention.key_length_swa", h.head_dim_sliding),
        u32("gemma4.attention.value_length_swa", h.head_dim_sliding),
        u32("gemma4.attention.sliding_window", c.integer("sliding_window")),
        u32("gemma4.attention.shared_kv_layers", h.n_shared),
        u32("gemma4.embedding_length_per_layer_input", h.n_per_layer_input),
        array("gemma4.attention.sliding_window_pattern", ValueType.BOOL, list(h.sliding)),
        u32("gemma4.rope.dimension_count", h.head_dim_full),
        u32("gemma4.rope.dimension_count_swa", h.head_dim_sliding),
    ]
    if c.values.get("final_logit_softcapping"):
        softcap = c.number("final_logit_softcapping")
        entries.append(f32("gemma4.final_logit_softcapping", softcap))
    return entries


def rope_factors(h: Hparams) -> np.ndarray:
    """Frequency factors of the full-attention layers, float32 [head_dim_full / 2].

    "Proportional" rope turns only the first part of each head; ggml divides a frequency by its
    factor, so 1e30 leaves the other dimensions where they are (conversion/gemma.py).
    """
    turned = int(h.head_dim_full * _rope(h, FULL).number("partial_rotary_factor", 1.0) / 2)
    values = np.full(h.head_dim_full // 2, 1e30, dtype=np.float32)
    values[:turned] = 1.0
    return values


def _layer_shapes(h: Hparams, layer: int) -> dict[str, Shape]:
    head, width = h.head_dim(layer), h.n_per_layer_input
    norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
    found: dict[str, Shape] = {
        **projections(h.n_embd, h.n_head * head, h.n_head_kv[layer] * head, h.n_ff[layer]),
        **dict.fromkeys(norms, (h.n_embd,)),
        **dict.fromkeys(("attn_q_norm", "attn_k_norm"), (head,)),
        "layer_output_scale": (1,),
    }
    if width:
        found |= {"inp_gate": (width, h.n_embd), "proj": (h.n_embd, width),
                  "post_norm": (h.n_embd,)}  # fmt: skip
    own = {part: shape for part, shape in found.items() if part not in _OWN_KV}
    return found if layer < h.first_shared else own


def _rest(h: Hparams) -> dict[str, Shape]:
    """What is of no layer and has no row for each token."""
    width = h.n_per_layer_input
    per_layer = {
        "per_layer_model_proj.weight": (h.n_layers * width, h.n_embd),
        "per_layer_proj_norm.weight": (width,),
    }
    return {"output_norm.weight": (h.n_embd,), **(per_layer if width else {})}


def tensors(
    config: Mapping[str, object], shapes: Mapping[str, Shape] | None, n_tokens: int
) -> ModelTensors:
    """Place every checkpoint tensor; towers and dead projections are listed as dropped."""
    h = read_hparams(config)
    layout = Layout(
        architecture="gemma4",
        n_layers=h.n_layers,
        expected=lambda layer: _layer_shapes(h, layer),
        required=_required(h),
        tables={
            **dict.fromkeys(TABLES, h.n_embd),
            "per_layer_token_embd.weight": h.n_layers * h.n_per_layer_input,
        },
        rest=_rest(h),
        plain=_plain,
        left_out=lambda source: _reason_left_out(config, source),
    )
    placed = place(layout, shapes, n_tokens)
    factors = rope_factors(h)
    computed = OutputTensor("rope_freqs.weight", factors.shape, None, factors)
    return replace(
        placed, outputs=(computed, *placed.outputs), counted=_counted(placed.dropped, h.n_layers)
    )


def _counted(dropped: Iterable[Dropped], n_layers: int) -> tuple[OutputTensor, ...]:
    """Dead projections: the converter writes them, and so llama.cpp's mixture counts them."""
    look_up = name_map("gemma4", n_layers)
    named = ((look_up(_plain(d.source)), d) for d in dropped)
    return tuple(OutputTensor(n, d.shape, d.source) for n, d in named if n and ".attn_" in n)


def _plain(source: str) -> str:
    name = plain_name(source)
    return f"{name}.weight" if name.endswith("layer_scalar") else name


def _required(h: Hparams) -> frozenset[str]:
    parts = LAYER + (_LAYER_PER_LAYER_INPUT if h.n_per_layer_input else ())
    names = layer_names(h.n_layers, parts) | _rest(h).keys()
    names |= {f"blk.{i}.{part}.weight" for i in range(h.first_shared) for part in _OWN_KV}
    return names | ({"per_layer_token_embd.weight"} if h.n_per_layer_input else set())


def is_dead(config: Mapping[str, object], name: str) -> bool:
    """Whether `name` is a key or value part of a layer that shares those of an earlier one."""
    match = _KV_MODULE.search(name)
    if match is None or is_tower(name):
        return False
    text = text_config(config)
    shared = text.values.get("num_kv_shared_layers")
    first_shared = text.integer("num_hidden_layers") - (shared if isinstance(shared, int) else 0)
    return bool(int(match[1]) >= first_shared)


def _reason_left_out(config: Mapping[str, object], name: str) -> str | None:
    if is_tower(name):
        return TOWER_REASON
    if is_dead(config, name):
        return "dead: the layer shares the keys and values of an earlier one"
    return None


ARCHITECTURE = Architecture(
    name="gemma4",
    hf_names=("Gemma4ForCausalLM", "Gemma4ForConditionalGeneration"),
    metadata=metadata,
    tensors=tensors,
    vocabulary=gemma4_vocabulary,
    is_dead=is_dead,
    tied_by_default=True,
)
