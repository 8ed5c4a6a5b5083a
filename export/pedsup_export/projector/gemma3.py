"""Gemma 3's and MedGemma's vision tower (SigLIP) and projection.

Source: `Gemma3VisionModel` in conversion/gemma.py, `clip_graph_siglip` in tools/mtmd.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Final

from pedsup.errors import UnsupportedError
from pedsup_export.arch.base import Config, OutputTensor, Shape
from pedsup_export.arch.gemma_text import GELU_TANH, is_tower
from pedsup_export.gguf.header import KV, boolean, string, u32
from pedsup_export.projector.base import (
    Placer,
    Towers,
    epsilon,
    layers,
    place,
    text_width,
    tower_config,
    vision_entries,
)

_TOWER: Final = "vision_tower."
_INNER: Final = "vision_tower.vision_model."
_MERGE: Final = 4
"""Patches on each side of what becomes one token, where the file does not say."""
_KEPT_WIDE: Final = {
    "mm.input_projection.weight": "F16",
    "v.patch_embd.weight": "F32",
    "v.position_embd.weight": "F32",
}
_HEAD: Final = "the pooling head of the vision tower: Gemma 3 does not use it"


def towers(
    config: Mapping[str, object],
    processor: Mapping[str, object],
    shapes: Mapping[str, Shape] | None,
) -> Towers:
    """Place the vision tower and its projection.

    Args:
        config: config.json.
        processor: the merged configuration of the processor.
        shapes: shape by name of every tensor of the checkpoint (see `place`).

    Raises:
        UnsupportedError: another tower than SigLIP, or something that llama.cpp does not compute.
        BadFileError, MismatchError: configuration and tensors do not fit together.
    """
    vision = _vision_config(config)
    image, patch = (vision.integer(key, high=1 << 14) for key in ("image_size", "patch_size"))
    expected = _shapes(vision, text_width(config), image // patch)
    placer = Placer(
        plain=_plain,
        make=_output,
        expected=expected,
        required=frozenset(expected),
        left_out=lambda source: _HEAD if ".head." in _canonical(source) else None,
    )
    tensors, left_out = place(placer, shapes, filter(is_tower, shapes or ()))
    entries = [
        *vision_entries(vision, processor, width=text_width(config), image_size=image),
        string("clip.projector_type", "gemma3"),
        epsilon(vision, "vision"),
        boolean("clip.use_gelu", True),
        *_merge(config, processor, image // patch),
    ]
    return Towers(tuple(entries), tensors, _KEPT_WIDE, True, False, left_out)


def _vision_config(config: Mapping[str, object]) -> Config:
    vision = tower_config(config, "vision_config", "siglip_vision_model")
    vision.one_of("hidden_act", GELU_TANH, default=GELU_TANH[0], what="a tower with the activation")
    return vision


def _merge(
    config: Mapping[str, object], processor: Mapping[str, object], per_side: int
) -> list[KV]:
    """The entry for how many patches make a token, where it is not llama.cpp's own."""
    n_tokens = Config(config).integer("mm_tokens_per_image", high=1 << 20, default=256)
    said = Config(processor).integer("image_seq_length", high=1 << 20, default=256)
    if said != n_tokens:
        raise UnsupportedError(
            f"config.json has 'mm_tokens_per_image' {n_tokens}, the processor's configuration "
            f"'image_seq_length' {said}",
            wanted="one number of tokens for a picture",
        )
    side = isqrt(n_tokens)
    if side * side != n_tokens or per_side % side:
        raise UnsupportedError(
            f"{n_tokens} tokens for a picture of {per_side} times {per_side} patches",
            wanted="a square number of tokens that divides the patches evenly",
        )
    merge = per_side // side
    return [] if merge == _MERGE else [u32("clip.vision.projector.scale_factor", merge)]


def _shapes(vision: Config, width: int, per_side: int) -> dict[str, Shape]:
    n, ff = (vision.integer(k, high=1 << 20) for k in ("hidden_size", "intermediate_size"))
    patch = vision.integer("patch_size", high=1 << 14)
    matrices = {
        **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_out"), (n, n)),
        "ffn_up": (ff, n),
        "ffn_down": (n, ff),
    }
    parts: dict[str, Shape] = {f"{name}.weight": shape for name, shape in matrices.items()}
    parts |= {f"{name}.bias": shape[:1] for name, shape in matrices.items()}
    parts |= {f"{norm}.{kind}": (n,) for norm in ("ln1", "ln2") for kind in ("weight", "bias")}
    return {
        **layers("v", vision.integer("num_hidden_layers", high=128), parts),
        "v.patch_embd.weight": (n, 3, patch, patch),
        "v.patch_embd.bias": (n,),
        "v.position_embd.weight": (per_side * per_side, n),
        "v.post_ln.weight": (n,),
        "v.post_ln.bias": (n,),
        "mm.input_projection.weight": (n, width),
        "mm.soft_emb_norm.weight": (n,),
    }


def _canonical(source: str) -> str:
    """The spelling of Google's checkpoints; transformers has written three."""
    name = source.removeprefix("model.")
    if name.startswith(_TOWER) and not name.startswith(_INNER):
        name = _INNER + name.removeprefix(_TOWER)
    return name


def _plain(source: str) -> str:
    return _canonical(source).replace("_weight", ".weight")


def _output(name: str, shape: Shape, source: str) -> OutputTensor:
    """`Gemma3RMSNorm` multiplies by one plus its weight; the tower's own norms do not."""
    return OutputTensor(name, shape, source, shift=1.0 if "soft_emb_norm" in name else 0.0)
