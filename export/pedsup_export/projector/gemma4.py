"""Gemma 4's vision tower and audio conformer, with the projection of each.

Source: `Gemma4VisionAudioModel` in conversion/gemma.py, `clip_graph_gemma4v` and
`clip_graph_gemma4a` in tools/mtmd. What these graphs have built in (pooling, rope, chunks of the
attention) is in no file, so a tower with other values is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import isqrt
from typing import Final

import numpy as np

from pedsup.errors import UnsupportedError
from pedsup_export.arch.base import Config, Dropped, OutputTensor, Shape
from pedsup_export.arch.gemma_text import GELU_TANH, is_tower
from pedsup_export.gguf.header import KV, boolean, string, u32
from pedsup_export.projector.base import (
    BOUNDS,
    Placer,
    Towers,
    epsilon,
    layers,
    place,
    require,
    text_width,
    tower_config,
    vision_entries,
)

_CONVOLUTION: Final = re.compile(r"a\.(conv1d\.\d|input_projection|blk\.\d+\.conv_dw)\.weight")
"""What the converter keeps in float32: it looks for 'conv' in the checkpoint's name of a tensor."""
_IMAGE_SIZE: Final = 224
"""Unused: the converter writes it because the loader wants one."""
_MELS: Final = 128
_CONV_WIDTH: Final = 5
_FEED_FORWARD: Final = 4
"""Width of the conformer's feed-forward, over that of its layers."""


def towers(
    config: Mapping[str, object],
    processor: Mapping[str, object],
    shapes: Mapping[str, Shape] | None,
) -> Towers:
    """Place both towers; the audio tower is left out, and said, where llama.cpp has none for it.

    Args:
        config: config.json.
        processor: the merged configuration of the processor.
        shapes: shape by name of every tensor of the checkpoint (see `place`).

    Raises:
        UnsupportedError: a vision tower that llama.cpp does not compute.
        BadFileError, MismatchError: configuration and tensors do not fit together.
    """
    names = [name for name in shapes or () if is_tower(name)]
    seen = [name for name in names if not _is_audio(name)]
    width = text_width(config)
    vision = _vision_config(config)
    placed = list(_place(_vision_shapes(vision, width), shapes, seen))
    audio, notes, left_out = _audio(config, shapes, names, width)
    order = {name: number for number, name in enumerate(shapes or ())}
    placed = sorted([*placed, *audio], key=lambda t: order.get(str(t.source), 0))
    entries = vision_entries(vision, processor, width=width, image_size=_IMAGE_SIZE)
    if audio:
        entries += _audio_entries(config, width)
    entries += [string("clip.vision.projector_type", "gemma4v"), epsilon(vision, "vision")]
    if audio:
        entries += _audio_projector(config)
    wide = {t.name: "F32" for t in audio if _CONVOLUTION.fullmatch(t.name)}
    return Towers(tuple(entries), tuple(placed), wide, True, bool(audio), left_out, notes)


def _place(
    expected: Mapping[str, Shape], shapes: Mapping[str, Shape] | None, names: list[str]
) -> tuple[OutputTensor, ...]:
    placer = Placer(_plain, _output, expected, frozenset(expected), lambda _: None)
    return place(placer, shapes, names)[0]


def _audio(
    config: Mapping[str, object], shapes: Mapping[str, Shape] | None, names: list[str], width: int
) -> tuple[tuple[OutputTensor, ...], tuple[str, ...], tuple[Dropped, ...]]:
    """The audio tower's tensors; or why it is left out, and which tensors with it."""
    heard = [name for name in names if _is_audio(name)]
    if shapes is not None and not heard:
        return (), (), ()
    try:
        return _place(_audio_shapes(_audio_config(config), width), shapes, heard), (), ()
    except UnsupportedError as error:
        why = f"audio tower: {error.found}"
        note = f"the projector has no audio tower ({len(heard)} tensors): {error.found}"
        return (
            (),
            (note,),
            tuple(Dropped(n, s, why) for n, s in (shapes or {}).items() if n in heard),
        )


def _is_audio(source: str) -> bool:
    return "audio_tower" in source or "embed_audio" in source


def _vision_config(config: Mapping[str, object]) -> Config:
    vision = tower_config(config, "vision_config", "gemma4_vision")
    vision.one_of(
        "hidden_activation", GELU_TANH, default=GELU_TANH[0], what="a tower with the activation"
    )
    what = "a vision tower"
    require(vision, "pooling_kernel_size", 3, where=what)
    require(vision, "rms_norm_eps", 1e-6, where=what)
    rope = Config(vision.mapping("rope_parameters"))
    require(rope, "rope_theta", 100.0, where=what)
    n, heads = (vision.integer(k, high=1 << 16) for k in ("hidden_size", "num_attention_heads"))
    kv = vision.integer("num_key_value_heads", high=1 << 16, default=heads)
    if kv != heads or vision.integer("head_dim", high=1 << 16, default=n // heads) * heads != n:
        raise UnsupportedError(
            "a vision tower whose heads are not as wide as its layers, or share keys",
            wanted="as many key heads as heads, and hidden_size / heads for each",
        )
    return vision


def _audio_config(config: Mapping[str, object]) -> Config:
    audio = tower_config(config, "audio_config", "gemma4_audio")
    audio.one_of("hidden_act", ("silu",), default="silu", what="a tower with the activation")
    for key, built_in in (
        ("attention_chunk_size", 12),
        ("attention_context_left", 13),
        ("attention_context_right", 0),
        ("attention_logit_cap", 50.0),
        ("conv_kernel_size", _CONV_WIDTH),
        ("residual_weight", 0.5),
        ("rms_norm_eps", 1e-6),
    ):
        require(audio, key, built_in, where="an audio tower")
    return audio


def _vision_shapes(vision: Config, width: int) -> dict[str, Shape]:
    n, ff = (vision.integer(k, high=1 << 20) for k in ("hidden_size", "intermediate_size"))
    head = n // vision.integer("num_attention_heads", high=1 << 16)
    norms = ("ln1", "ln2", "attn_post_norm", "ffn_post_norm")
    parts: dict[str, Shape] = {
        **{f"attn_{part}.weight": (n, n) for part in ("q", "k", "v", "out")},
        **{f"attn_{part}_norm.weight": (head,) for part in ("q", "k")},
        **{f"{norm}.weight": (n,) for norm in norms},
        **{f"ffn_{part}.weight": (ff, n) for part in ("gate", "up")},
        "ffn_down.weight": (n, ff),
    }
    patch = vision.integer("patch_size", high=1 << 14)
    places = vision.integer("position_embedding_size", high=1 << 24, default=10240)
    return {
        **layers("v", vision.integer("num_hidden_layers", high=128), parts),
        "v.patch_embd.weight": (n, 3 * patch * patch),
        "v.position_embd.weight": (2, places, n),
        "mm.input_projection.weight": (width, n),
    }


def _audio_shapes(audio: Config, width: int) -> dict[str, Shape]:
    n = audio.integer("hidden_size", high=1 << 16)
    ff, out = _FEED_FORWARD * n, audio.integer("output_proj_dims", high=1 << 16)
    parts: dict[str, Shape] = {
        **{f"attn_{part}.weight": (n, n) for part in ("q", "k", "v", "out", "k_rel")},
        **{f"ffn_up{half}.weight": (ff, n) for half in ("", "_1")},
        **{f"ffn_down{half}.weight": (n, ff) for half in ("", "_1")},
        **{f"ffn_norm{half}.weight": (n,) for half in ("", "_1")},
        "conv_pw1.weight": (2 * n, n),
        "conv_pw2.weight": (n, n),
        "conv_dw.weight": (n, 1, _CONV_WIDTH),
        **{f"ffn_post_norm{half}.weight": (n,) for half in ("", "_1")},
        **dict.fromkeys(("norm_conv.weight", "conv_norm.weight", "ln2.weight"), (n,)),
        **{f"attn_{when}_norm.weight": (n,) for when in ("pre", "post")},
        "per_dim_scale.weight": (n // audio.integer("num_attention_heads", high=4096),),
    }
    first, second = _channels(audio)
    mels = audio.integer("input_feat_size", high=4096, default=_MELS)
    return {
        **layers("a", audio.integer("num_hidden_layers", high=128), parts),
        "a.conv1d.0.weight": (first, 1, 3, 3),
        "a.conv1d.0.norm.weight": (first,),
        "a.conv1d.1.weight": (second, first, 3, 3),
        "a.conv1d.1.norm.weight": (second,),
        "a.input_projection.weight": (n, second * mels // 4),
        "a.pre_encode.out.weight": (out, n),
        "a.pre_encode.out.bias": (out,),
        "mm.a.input_projection.weight": (width, out),
    }


def _channels(audio: Config) -> tuple[int, int]:
    """Of the two convolutions that halve time and frequency."""
    found = audio.values.get("subsampling_conv_channels", [128, 32])
    if not (isinstance(found, list) and len(found) == 2 and all(type(n) is int for n in found)):
        raise UnsupportedError(f"an audio tower with 'subsampling_conv_channels' {found!r:.40}")
    return found[0], found[1]


def _audio_entries(config: Mapping[str, object], width: int) -> list[KV]:
    audio = _audio_config(config)
    n = audio.integer("hidden_size", high=1 << 16)
    heads = audio.integer("num_attention_heads", high=4096)
    return [
        boolean("clip.has_audio_encoder", True),
        u32("clip.audio.projection_dim", width),
        u32("clip.audio.embedding_length", n),
        u32("clip.audio.feed_forward_length", _FEED_FORWARD * n),
        u32("clip.audio.block_count", audio.integer("num_hidden_layers", high=128)),
        u32("clip.audio.attention.head_count", heads),
    ]


def _audio_projector(config: Mapping[str, object]) -> list[KV]:
    audio = _audio_config(config)
    return [
        string("clip.audio.projector_type", "gemma4a"),
        u32("clip.audio.num_mel_bins", audio.integer("input_feat_size", high=4096, default=_MELS)),
        epsilon(audio, "audio"),
    ]


def _plain(source: str) -> str:
    """The name under which gguf-py's table knows a tensor, as the converter makes it."""
    name = source if source.startswith("model.") else f"model.{source}"
    if _is_audio(name):
        name = name.replace("model.audio_tower.", "conformer.").replace(".linear.", ".")
        return f"{name}.weight" if name.endswith(("per_dim_scale", "per_dim_key_scale")) else name
    name = name.replace("model.vision_tower.encoder.", "vision_model.model.")
    name = name.replace(".linear.weight", ".weight")
    scalar = name.endswith(("layer_scalar", "position_embedding_table"))
    return f"{name}.weight" if scalar else name


def _output(name: str, shape: Shape, source: str) -> OutputTensor:
    arrange: Callable[[np.ndarray], np.ndarray] | None = None
    if "per_dim_scale" in name or "per_dim_k_scale" in name:
        arrange = softplus
    elif name == "v.patch_embd.weight":
        patch = isqrt(shape[1] // 3)
        shape, arrange = (shape[0], 3, patch, patch), _channels_first
    elif name.endswith("conv_dw.weight"):
        shape = (shape[0], shape[2])
    bound = name.endswith(BOUNDS)
    return OutputTensor(name, shape, source, arrange=arrange, may_be_infinite=bound)


def _channels_first(rows: np.ndarray) -> np.ndarray:
    """Rows of patch x patch pixels with their colours, as a convolution's kernel: colour first."""
    n, size = rows.shape
    patch = isqrt(size // 3)
    return rows.reshape(n, patch, patch, 3).transpose(0, 3, 1, 2)


def softplus(values: np.ndarray) -> np.ndarray:
    """log(1 + exp(x)) in float32, both steps rounded correctly.

    torch, which the converter uses, comes within one unit of the last place of it: its own result
    depends on the processor.
    """
    exp = np.exp(values.astype(np.float64)).astype(np.float32)
    found = np.log1p(exp.astype(np.float64)).astype(np.float32)
    return np.where(values > 20, values, found)  # torch's threshold
