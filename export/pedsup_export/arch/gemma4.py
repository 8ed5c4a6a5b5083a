"""Gemma 4 text models of the E2B and E4B kind, alone or inside a multimodal checkpoint.

Two head sizes (sliding and full attention), KV-shared layers at the end, a table of per-layer
embeddings, a softcap, an output head that is usually the token embeddings. Hyperparameters and
names follow llama.cpp's converter (conversion/gemma.py). config.json is read in both spellings that
transformers has used: `global_head_dim` and, from 5.x on, `per_layer_config` with the layer as the
key ("5" or "05").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pedsup.errors import UnsupportedError
from pedsup.gguf_file import ValueType
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
from pedsup_export.gguf.header import KV, array, f32, u32
from pedsup_export.tokenizer.vocab import gemma4_vocabulary

GELU_TANH = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast")
"""transformers' names of the tanh approximation of GELU, which `ggml_gelu` computes."""
FULL, SLIDING = "full_attention", "sliding_attention"
_TOWERS = re.compile(r"(vision|audio)_tower\.|\.?embed_(vision|audio)\.|multi_modal_projector\.")
_KV_MODULE = re.compile(r"layers\.(\d+)\.self_attn\.(k_proj|v_proj|k_norm|v_norm)\b")
_LAYER = ("attn_norm", "attn_q", "attn_q_norm", "attn_output", "post_attention_norm", "ffn_norm",
          "ffn_gate", "ffn_up", "ffn_down", "post_ffw_norm")  # fmt: skip
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
        """The first layer that has no key and value of its own."""
        return self.n_layers - self.n_shared

    def head_dim(self, layer: int) -> int:
        """Head size of a layer."""
        return self.head_dim_sliding if self.sliding[layer] else self.head_dim_full


def read_hparams(config: Mapping[str, Any]) -> Hparams:
    """Read `config.json` (the whole one, or its `text_config`).

    Raises:
        BadFileError: a field is missing or impossible.
        UnsupportedError: a feature of the larger models (experts, keys used as values).
    """
    text = Config(config.get("text_config") or config)
    _refuse_larger_models(text)
    _refuse_other_arithmetic(text)
    n_layers = text.integer("num_hidden_layers", high=4096)
    kinds = text.values.get("layer_types")
    if not isinstance(kinds, list) or len(kinds) != n_layers or not {*kinds} <= {FULL, SLIDING}:
        raise UnsupportedError(
            "'layer_types' is missing or holds something else than full and sliding attention",
            where="config.json of the base",
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
            raise UnsupportedError(
                f"a Gemma 4 model with {what} ('{key}')",
                where="config.json of the base",
                wanted="an E2B or E4B model: the larger ones do not run on a phone",
            )


def _refuse_other_arithmetic(text: Config) -> None:
    """Refuse what llama.cpp's Gemma 4 graph does not compute (src/models/gemma4.cpp)."""
    text.one_of(
        "hidden_activation", GELU_TANH, default=GELU_TANH[0], what="a model with the activation"
    )
    if text.flag("attention_bias", default=False):
        raise UnsupportedError(
            "a Gemma 4 model with biases in its attention ('attention_bias')",
            where="config.json of the base",
            wanted="attention without biases: llama.cpp has none for this architecture",
        )
    if text.values.get("use_bidirectional_attention") == "all":
        raise UnsupportedError(
            "a model whose attention looks ahead ('use_bidirectional_attention')",
            where="config.json of the base",
            wanted="causal attention, as llama.cpp runs this architecture",
        )


def _full_layer_value(text: Config, kinds: list[str], key: str, layer_key: str) -> int | None:
    """A value of the full-attention layers: `key` at the top, or `layer_key` per layer."""
    if text.values.get(key) is not None:
        return text.integer(key, high=1 << 16)
    for number, overrides in text.mapping("per_layer_config").items():
        layer = int(number) if str(number).isdecimal() else -1
        if 0 <= layer < len(kinds) and kinds[layer] == FULL and layer_key in overrides:
            return Config(overrides).integer(layer_key, high=1 << 16)
    return None


def _rope(h: Hparams, kind: str) -> Config:
    rope = h.config.mapping("rope_parameters").get(kind)
    wanted = "proportional" if kind == FULL else "default"
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != wanted:
        raise UnsupportedError(
            f"rope_parameters for {kind}: {rope!r}",
            where="config.json of the base",
            wanted=f"rope_type {wanted!r}",
        )
    return Config(rope)


def metadata(config: Mapping[str, Any]) -> list[KV]:
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


def _expected_shape(name: str, h: Hparams) -> Shape | None:
    part = name.removesuffix(".weight").rpartition(".")[2]
    match = re.match(r"blk\.(\d+)\.", name)
    if match is None or (layer := int(match[1])) >= h.n_layers:
        return None
    q_rows, kv_rows = h.n_head * h.head_dim(layer), h.n_head_kv[layer] * h.head_dim(layer)
    return {
        "attn_q": (q_rows, h.n_embd),
        "attn_k": (kv_rows, h.n_embd),
        "attn_v": (kv_rows, h.n_embd),
        "attn_output": (h.n_embd, q_rows),
        "ffn_gate": (h.n_ff[layer], h.n_embd),
        "ffn_up": (h.n_ff[layer], h.n_embd),
        "ffn_down": (h.n_embd, h.n_ff[layer]),
        "inp_gate": (h.n_per_layer_input, h.n_embd),
        "proj": (h.n_embd, h.n_per_layer_input),
    }.get(part)


def tensors(config: Mapping[str, Any], shapes: Mapping[str, Shape], n_tokens: int) -> ModelTensors:
    """Place every checkpoint tensor; towers and dead projections are listed as dropped."""
    h = read_hparams(config)
    look_up = name_map("gemma4", h.n_layers)
    factors = rope_factors(h)
    outputs = [OutputTensor("rope_freqs.weight", factors.shape, None, factors)]
    dropped, counted, unknown = [], [], []
    for source, shape in shapes.items():
        name = look_up(_plain(source))
        if (reason := _reason_left_out(config, source)) is not None:
            dropped.append(Dropped(source, shape, reason))
            if name is not None and ".attn_" in name:
                counted.append(OutputTensor(name, shape, source))
            continue
        if name is None:
            unknown.append(source)
            continue
        if (wanted := _expected_shape(name, h)) is not None:
            check_shape(source, shape, wanted)
        if name in ("token_embd.weight", "output.weight", "per_layer_token_embd.weight"):
            check_shape(source, shape, (n_tokens, _table_width(name, h)))
        elif name.endswith(".bias"):
            unknown.append(source)  # llama.cpp loads no bias for this architecture
            continue
        outputs.append(OutputTensor(name, shape, source))
    if unknown:
        raise unmapped(unknown, "gemma4")
    check_required(outputs, _required(h))
    return ModelTensors(tuple(outputs), tuple(dropped), tuple(counted))


def _table_width(name: str, h: Hparams) -> int:
    wide = name == "per_layer_token_embd.weight"
    return h.n_layers * h.n_per_layer_input if wide else h.n_embd


def _plain(source: str) -> str:
    """The text model's own name for a tensor, as `Gemma4ForCausalLM` would save it."""
    name = source.replace("language_model.", "", 1)
    return f"{name}.weight" if name.endswith("layer_scalar") else name


def _required(h: Hparams) -> set[str]:
    parts = _LAYER + (_LAYER_PER_LAYER_INPUT if h.n_per_layer_input else ())
    names = {f"blk.{i}.{part}.weight" for i in range(h.n_layers) for part in parts}
    own_kv = ("attn_k", "attn_v", "attn_k_norm")
    names |= {f"blk.{i}.{part}.weight" for i in range(h.first_shared) for part in own_kv}
    if h.n_per_layer_input:
        names |= {"per_layer_token_embd.weight", "per_layer_model_proj.weight",
                  "per_layer_proj_norm.weight"}  # fmt: skip
    return names | {"token_embd.weight", "output_norm.weight"}


def is_dead(config: Mapping[str, Any], name: str) -> bool:
    """Whether `name` is a key or value part of a layer that shares those of an earlier one."""
    match = _KV_MODULE.search(name)
    if match is None or _TOWERS.search(name):
        return False
    text = config.get("text_config") or config
    first_shared = text["num_hidden_layers"] - (text.get("num_kv_shared_layers") or 0)
    return bool(int(match[1]) >= first_shared)


def _reason_left_out(config: Mapping[str, Any], name: str) -> str | None:
    if _TOWERS.search(name):
        return "vision or audio tower: not part of a text model"
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
