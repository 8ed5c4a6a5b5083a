"""Gemma 4's drafter models: a few layers without keys and values that guess tokens ahead.

`Gemma4AssistantForCausalLM` is a small Gemma 4 text model between two projections from and to the
hidden size of the model it drafts for. Names and fields follow llama.cpp's converter
(conversion/gemma.py), which leaves the tables of `masked_embedding` out: they only save time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from pedsup_export.arch import gemma4
from pedsup_export.arch.base import (
    Architecture,
    Config,
    Dropped,
    ModelTensors,
    OutputTensor,
    Shape,
    check_required,
    check_shape,
    unsupported,
)
from pedsup_export.gguf.header import KV, u32
from pedsup_export.tokenizer.vocab import gemma4_vocabulary

NAME: Final = "gemma4-assistant"
_PROJECTIONS: Final = {
    "pre_projection.weight": "nextn.pre_projection.weight",
    "post_projection.weight": "nextn.post_projection.weight",
}
_MASKED: Final = "masked_embedding."


def metadata(config: Mapping[str, object]) -> list[KV]:
    """Hyperparameters: those of a Gemma 4, the target's hidden size and the layers that draft."""
    h = gemma4.read_hparams(config)
    inner = [
        replace(entry, key=f"{NAME}.{entry.key.removeprefix('gemma4.')}")
        for entry in gemma4.metadata(config)
    ]
    return [
        *inner,
        u32(f"{NAME}.embedding_length_out", _target_width(config)),
        u32(f"{NAME}.nextn_predict_layers", h.n_layers),
    ]


def tensors(
    config: Mapping[str, object], shapes: Mapping[str, Shape] | None, n_tokens: int
) -> ModelTensors:
    """Place every tensor of the checkpoint; the masked embedding is listed as dropped."""
    h, width = gemma4.read_hparams(config), _target_width(config)
    inner: dict[str, Shape] = {}
    outputs, dropped = [], []
    wanted = {"pre_projection.weight": (h.n_embd, 2 * width),
              "post_projection.weight": (width, h.n_embd)}  # fmt: skip
    for source, shape in (shapes or {}).items():
        if source.startswith(_MASKED):
            dropped.append(Dropped(source, shape, "llama.cpp drafts from all tokens"))
        elif (name := _PROJECTIONS.get(source)) is not None:
            check_shape(source, shape, wanted[source])
            outputs.append(OutputTensor(name, shape, source))
        else:
            inner[source] = shape
    check_required(outputs, set(_PROJECTIONS.values()))
    placed = gemma4.tensors(config, inner, n_tokens)
    if any(o.name == "output.weight" for o in placed.outputs):
        raise unsupported(
            "a drafter with an output head of its own",
            wanted="a drafter whose head is its token embeddings: llama.cpp has no other",
        )
    return ModelTensors((*placed.outputs, *outputs), (*placed.dropped, *dropped), placed.counted)


def _target_width(config: Mapping[str, object]) -> int:
    return Config(config).integer("backbone_hidden_size", high=1 << 20)


ARCHITECTURE = Architecture(
    name=NAME,
    hf_names=("Gemma4AssistantForCausalLM",),
    metadata=metadata,
    tensors=tensors,
    vocabulary=gemma4_vocabulary,
    is_dead=gemma4.is_dead,
    tied_by_default=True,
)
