"""The tensor type that an exported file holds each weight of a model in.

The types are llama.cpp's mixture (`pedsup.gguf_file.type_mixture`), which the exporter uses too. It
counts layers and roles by GGUF name, so the modules of the two architectures that the exporter
writes are named here as it names them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pedsup.errors import UnsupportedError
from pedsup.gguf_file.file_types import FILE_TYPES
from pedsup.gguf_file.ggml_types import BY_NAME
from pedsup.gguf_file.type_mixture import StoredTensor, choose_types
from pedsup.gguf_file.type_recipes import ModelShape
from pedsup.optional import require
from pedsup_train.model.targets import is_tower, text_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_LAYER_PARTS: Final = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "per_layer_input_gate": "inp_gate",
    "per_layer_projection": "proj",
}
_TOP_PARTS: Final = {
    "embed_tokens": "token_embd",
    "embed_tokens_per_layer": "per_layer_token_embd",
    "per_layer_model_projection": "per_layer_model_proj",
    "lm_head": "output",
}
_ARCHITECTURES: Final = {"gemma4": "gemma4", "gemma4_text": "gemma4", "llama": "llama"}
_F32: Final = BY_NAME["F32"]


def gguf_name(weight: str) -> str | None:
    """'model.layers.3.mlp.up_proj.weight' -> 'blk.3.ffn_up.weight'; None: no matrix of the file."""
    module = weight.removesuffix(".weight")
    if layer := re.search(r"(?:^|\.)layers\.(\d+)\.(.+)$", module):
        part = _LAYER_PARTS.get(layer[2])
        return f"blk.{layer[1]}.{part}.weight" if part else None
    top = _TOP_PARTS.get(module.rpartition(".")[2])
    return f"{top}.weight" if top else None


def shipped_types(
    config: PretrainedConfig, shapes: Mapping[str, tuple[int, ...]], quant: str
) -> dict[str, str]:
    """The ggml type of each matrix of the file, by its GGUF name.

    Args:
        shapes: of all tensors of the checkpoint, by name (`checkpoint_shapes`). Keys and values of
            layers that share those of others count, although the file leaves them out.
        quant: name of the file type, as in `--quant`.

    Raises:
        UnsupportedError: an architecture that the exporter does not write.
    """
    text = text_config(config)
    architecture = _ARCHITECTURES.get(config.model_type)
    if architecture is None:
        raise UnsupportedError(
            f"no file is exported of the architecture '{config.model_type}'",
            wanted=", ".join(_ARCHITECTURES),
            remedy='--set train.quantize="none"',
        )
    stored = {}
    for name, shape in shapes.items():
        found = None if is_tower(name) else gguf_name(name)
        if found is not None and not (found == "output.weight" and text.tie_word_embeddings):
            stored[found] = StoredTensor(shape[::-1], _F32)
    n_heads = int(text.num_attention_heads)
    n_kv = int(getattr(text, "num_key_value_heads", None) or n_heads)
    model = ModelShape(architecture, int(text.num_hidden_layers), n_heads, n_kv)
    choices = choose_types(stored, file_type=FILE_TYPES[quant], model=model)
    return {name: choice.type.name for name, choice in choices.items()}


def checkpoint_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a base folder, from the headers of its safetensors.

    Raises:
        UnsupportedError: the base is not a local folder of safetensors.
    """
    safe_open = require("safetensors", extra="train").safe_open
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files:
        raise UnsupportedError(
            "training on a grid needs the base as a folder of safetensors",
            where=folder,
            wanted="the folder that pedsup-export reads, so that both choose the same types",
            remedy="download the base and give --base FOLDER",
        )
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        with safe_open(path, framework="numpy") as file:
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return shapes
