"""A projector: the GGUF file with the towers that turn pictures into a model's embeddings.

`validate_projector` is for it what `validate_model` is for a model: llama.cpp's clip.cpp asserts on
much of what a file says. What pedsup knows are the vision towers of Gemma 3 (MedGemma) and Gemma 4;
of others the format, the sizes and the types are checked.
"""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pedsup.errors import BadFileError, MismatchError, UnsupportedError
from pedsup.gguf_file.cursor import AGAIN
from pedsup.gguf_file.header import GGUFHeader, read_header
from pedsup.gguf_file.rules import MAX_LAYERS, MAX_WIDTH, bad_field
from pedsup.gguf_file.values import ArrayValue, ValueType
from pedsup.messages import message

ARCHITECTURE: Final = "clip"
GEMMA3, GEMMA4 = "gemma3", "gemma4v"
KNOWN: Final = (GEMMA3, GEMMA4)
"""The vision towers that pedsup knows."""
MIN_TOKENS: Final = 70
"""Of a picture for Gemma 4: llama.cpp enlarges smaller ones."""
MAX_TOKENS: Final = 1120
"""Tokens of the largest picture that Gemma 4 was trained on."""
DEFAULT_TOKENS: Final = 280
"""Of a picture for Gemma 4 at most: what its processor takes. llama.cpp alone would take 1120."""
_MERGE: Final = {GEMMA3: 4, GEMMA4: 3}
"""Patches on each side that become one token, where the file does not say."""

_SIZES: Final = {
    "embedding_length": MAX_WIDTH,
    "feed_forward_length": MAX_WIDTH,
    "block_count": MAX_LAYERS,
    "projection_dim": MAX_WIDTH,
    "attention.head_count": 1 << 16,
}
_VISION_SIZES: Final = {**_SIZES, "image_size": 1 << 14, "patch_size": 1 << 10}
_NO_WEIGHTS: Final = frozenset({"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"})


@dataclass(frozen=True)
class Projector:
    """What a checked projector says of its vision tower."""

    header: GGUFHeader
    kind: str
    """llama.cpp's name of the projector, e.g. 'gemma4v'."""
    n_embd_text: int
    """Width of what it gives: the embedding length of its model."""
    n_embd: int
    n_ff: int
    n_head: int
    n_layer: int
    image_size: int
    """Pixels on each side, where all pictures become the same size."""
    patch_size: int
    merge: int
    audio: bool

    @property
    def known(self) -> bool:
        """Whether pedsup checked its tensors and knows what a picture costs."""
        return self.kind in KNOWN

    def size_seen(self, width: int, height: int, most: int = DEFAULT_TOKENS) -> tuple[int, int]:
        """Width and height in pixels that a picture is brought to before it is looked at.

        Args:
            width, height: as a person sees it.
            most: tokens that a picture may take, where it has a choice.
        """
        if self.kind == GEMMA3 or not self.known:
            return self.image_size, self.image_size
        unit = self.patch_size * self.merge
        area = unit * unit
        return _preserved_ratio(width, height, unit, min(MIN_TOKENS, most) * area, most * area)

    def tokens(self, width: int, height: int, most: int = DEFAULT_TOKENS) -> int:
        """Tokens that a picture takes in the prompt, without what marks its begin and end."""
        unit = self.patch_size * self.merge
        w, h = self.size_seen(width, height, most)
        return (w // unit) * (h // unit)

    def most_tokens(self, most: int = DEFAULT_TOKENS) -> int:
        """Tokens that no picture exceeds."""
        unit = self.patch_size * self.merge
        return most if self.kind == GEMMA4 else (self.image_size // unit) ** 2

    def most_patches(self, most: int = DEFAULT_TOKENS) -> int:
        """Patches that no picture exceeds: what the tower attends over."""
        return self.most_tokens(most) * self.merge**2


def is_projector(header: GGUFHeader) -> bool:
    """Whether a GGUF file is a projector."""
    return header.architecture == ARCHITECTURE


def validate_projector(path: str | Path) -> Projector:
    """Check a projector for what llama.cpp relies on.

    Raises:
        BadFileError: it is damaged or forged.
        UnsupportedError: it is no projector, or one without a vision tower.
    """
    return projector_of(read_header(path))


def projector_of(header: GGUFHeader) -> Projector:
    """The same for a header that was read, or planned.

    Raises:
        BadFileError, UnsupportedError: as `validate_projector`.
    """
    if not is_projector(header):
        raise UnsupportedError(
            message("a GGUF of the architecture '{name}'", name=header.architecture[:60] or "?"),
            where=header.path,
            wanted="a projector (mmproj), the file with a model's vision tower",
            remedy="give --mmproj the file that was exported with the model",
        )
    if header.get("clip.has_vision_encoder") is not True:
        raise UnsupportedError(
            "this projector has no vision tower",
            where=header.path,
            wanted="a projector for pictures",
            remedy="export the model again with --mmproj auto",
        )
    vision = {key: _size(header, f"clip.vision.{key}", most) for key, most in _VISION_SIZES.items()}
    audio = header.get("clip.has_audio_encoder") is True
    if audio:
        for key, most in _SIZES.items():
            _size(header, f"clip.audio.{key}", most)
    found = Projector(
        header=header,
        kind=_kind(header),
        n_embd_text=vision["projection_dim"],
        n_embd=vision["embedding_length"],
        n_ff=vision["feed_forward_length"],
        n_head=vision["attention.head_count"],
        n_layer=vision["block_count"],
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        merge=_merge(header),
        audio=audio,
    )
    _check_fields(found)
    _check_tensors(found)
    return found


def require_belongs(projector: Projector, model: GGUFHeader) -> None:
    """Refuse a projector whose embeddings are not as wide as the model's.

    Raises:
        MismatchError: they are not.
    """
    width = model.get("%s.embedding_length")
    if projector.n_embd_text != width:
        raise MismatchError(
            message("the projector gives embeddings of {n} numbers", n=projector.n_embd_text),
            where=projector.header.path,
            wanted=message("{n}, as the model {path} has", n=width, path=model.path),
            remedy="give --mmproj the file that was exported with the model",
        )


def _kind(header: GGUFHeader) -> str:
    for key in ("clip.projector_type", "clip.vision.projector_type"):
        if isinstance(kind := header.get(key), str) and kind:
            return kind
    raise bad_field(header, "clip.vision.projector_type", "is missing", message("a text"))


def _size(header: GGUFHeader, key: str, most: int) -> int:
    value, wanted = header.get(key), message("a UINT32 from {low} to {high}", low=1, high=most)
    if value is None:
        raise bad_field(header, key, "is missing", wanted)
    if header.value_types[key] is not ValueType.UINT32 or not 1 <= value <= most:
        found = message(
            "is {value} ({type})", value=f"{value!r:.60}", type=header.value_types[key].name
        )
        raise bad_field(header, key, found, wanted)
    return int(value)


def _merge(header: GGUFHeader) -> int:
    key = "clip.vision.projector.scale_factor"
    if header.get(key) is None:
        return _MERGE.get(_kind(header), 1)
    return _size(header, key, 64)


def _check_fields(p: Projector) -> None:
    """What clip.cpp divides by and takes three of."""
    header = p.header
    if p.n_embd % p.n_head:
        found = message("is {value}", value=p.n_head)
        wanted = message("a divisor of {n}, the width", n=p.n_embd)
        raise bad_field(header, "clip.vision.attention.head_count", found, wanted)
    for key in ("clip.vision.image_mean", "clip.vision.image_std"):
        value = header.get(key)
        right = isinstance(value, ArrayValue) and value.element is ValueType.FLOAT32
        if not right or len(value) != 3:
            raise bad_field(header, key, message("is not three numbers"), message("three FLOAT32"))
    if p.kind == GEMMA3 and p.image_size % (p.patch_size * p.merge):
        raise bad_field(
            header,
            "clip.vision.image_size",
            message("is {value}", value=p.image_size),
            message("a multiple of {n}", n=p.patch_size * p.merge),
        )


Shapes = dict[str, Callable[[Projector], tuple[int, ...]]]

_LAYER: Final = re.compile(r"v\.blk\.(\d{1,9})\.(.+)")
_PROJECTION: Final = "mm.input_projection.weight"


def _width(p: Projector) -> tuple[int, ...]:
    return (p.n_embd,)


_LAYER_SHAPES: Final[Shapes] = {
    **{f"attn_{name}.weight": lambda p: (p.n_embd, p.n_embd) for name in ("q", "k", "v", "out")},
    **{f"attn_{name}_norm.weight": lambda p: (p.n_embd // p.n_head,) for name in ("q", "k")},
    **{f"attn_{name}.bias": _width for name in ("q", "k", "v", "out")},
    **{f"{name}.{part}": _width for name in ("ln1", "ln2") for part in ("weight", "bias")},
    **{f"{name}_post_norm.weight": _width for name in ("attn", "ffn")},
    "ffn_up.weight": lambda p: (p.n_embd, p.n_ff),
    "ffn_gate.weight": lambda p: (p.n_embd, p.n_ff),
    "ffn_down.weight": lambda p: (p.n_ff, p.n_embd),
    "ffn_up.bias": lambda p: (p.n_ff,),
    "ffn_down.bias": _width,
}
_SHAPES: Final[dict[str, Shapes]] = {
    GEMMA3: {
        _PROJECTION: lambda p: (p.n_embd_text, p.n_embd),
        "mm.soft_emb_norm.weight": _width,
        "v.patch_embd.weight": lambda p: (p.patch_size, p.patch_size, 3, p.n_embd),
        "v.patch_embd.bias": _width,
        "v.position_embd.weight": lambda p: (p.n_embd, (p.image_size // p.patch_size) ** 2),
        "v.post_ln.weight": _width,
        "v.post_ln.bias": _width,
    },
    GEMMA4: {
        _PROJECTION: lambda p: (p.n_embd, p.n_embd_text),
        "v.patch_embd.weight": lambda p: (p.patch_size, p.patch_size, 3, p.n_embd),
    },
}
"""What each tensor of a tower that pedsup knows must look like, in ggml's order."""
_NEEDED: Final = ("attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_out.weight",
                  "ln1.weight", "ln2.weight", "ffn_up.weight", "ffn_down.weight")  # fmt: skip


def _check_tensors(p: Projector) -> None:
    shapes = _SHAPES.get(p.kind)
    for tensor in p.header.tensors.values():
        if tensor.type.name in _NO_WEIGHTS:
            raise _bad_tensor(p, tensor.name, message("has the type {type}", type=tensor.type.name))
        if shapes is None:
            continue
        layer = _LAYER.fullmatch(tensor.name)
        rule = _LAYER_SHAPES.get(layer[2]) if layer else shapes.get(tensor.name)
        if rule is not None and tensor.shape != rule(p):
            found = message(
                "has the shape {shape}, not {wanted}",
                shape=list(tensor.shape),
                wanted=list(rule(p)),
            )
            raise _bad_tensor(p, tensor.name, found)
    if shapes is None:
        return
    layers = [f"v.blk.{i}.{name}" for i in range(p.n_layer) for name in _NEEDED]
    for name in (*shapes, "v.position_embd.weight", *layers):
        if name not in p.header.tensors:
            raise _bad_tensor(p, name, message("is missing"))
    if p.kind == GEMMA4:
        _check_positions(p)


def _check_positions(p: Projector) -> None:
    """Gemma 4 looks rows up in two tables, one for columns and one for rows of patches."""
    name = "v.position_embd.weight"
    shape = p.header.tensors[name].shape
    rows = MAX_TOKENS * p.merge  # a picture of one row of tokens
    if len(shape) != 3 or shape[0] != p.n_embd or shape[1] < rows or shape[2] != 2:
        raise _bad_tensor(p, name, message("has the shape {shape}", shape=list(shape)))


def _bad_tensor(p: Projector, name: str, problem: str) -> BadFileError:
    return BadFileError(
        message("the tensor '{name}' {problem}", name=name, problem=problem),
        where=p.header.path,
        wanted=message("the vision tower that the file's fields describe ({kind})", kind=p.kind),
        remedy=AGAIN,
    )


def _preserved_ratio(width: int, height: int, unit: int, least: int, most: int) -> tuple[int, int]:
    """llama.cpp's `calc_size_preserved_ratio` (tools/mtmd/mtmd-image.cpp), in its float32."""

    def f32(x: float) -> float:
        return ctypes.c_float(x).value

    def scaled(length: int, factor: float, rounded: Callable[[float], int]) -> int:
        return max(unit, rounded(f32(f32(factor) / unit)) * unit) if length else unit

    w = max(unit, _half_away(f32(width / unit)) * unit)
    h = max(unit, _half_away(f32(height / unit)) * unit)
    if w * h > most:
        beta = f32(math.sqrt(f32(f32(float(height) * width) / most)))
        h, w = (scaled(x, x / beta, math.floor) for x in (height, width))
    elif w * h < least:
        beta = f32(math.sqrt(f32(least / f32(float(height) * width))))
        h, w = (scaled(x, x * beta, math.ceil) for x in (height, width))
    return w, h


def _half_away(x: float) -> int:
    """C's round(): halves away from zero."""
    return math.floor(x + 0.5)
