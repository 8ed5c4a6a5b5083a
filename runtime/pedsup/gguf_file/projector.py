"""A projector: the GGUF file with the towers that turn pictures into a model's embeddings.

`validate_projector` is for it what `validate_model` is for a model: llama.cpp's clip.cpp asserts on
much of what a file says. What pedsup knows are the vision towers of Gemma 3 (MedGemma) and Gemma 4;
of others the format, the sizes and the types are checked.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pedsup.errors import MismatchError, UnsupportedError
from pedsup.gguf_file.header import GGUFHeader, read_header
from pedsup.gguf_file.projector_fields import (
    ARCHITECTURE,
    GEMMA3,
    GEMMA4,
    KNOWN,
    check_known,
    check_numbers,
    check_types,
)
from pedsup.gguf_file.projector_tensors import check_tensors
from pedsup.gguf_file.rules import MAX_LAYERS, MAX_WIDTH, bad_field, bad_value, wrong_value
from pedsup.gguf_file.values import ValueType
from pedsup.messages import Message, message
from pedsup.texts.safe import label

MIN_TOKENS: Final = 70
"""Of a picture for Gemma 4: llama.cpp enlarges smaller ones."""
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
_VISION_SIZES: Final = {**_SIZES, "image_size": 1 << 13, "patch_size": 1 << 10}


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
    return header.architecture == ARCHITECTURE


def validate_projector(path: str | Path) -> Projector:
    """Check a projector for what llama.cpp relies on.

    Raises:
        BadFileError: it is damaged or forged.
        UnsupportedError: it is not a projector, or has no vision tower.
    """
    return projector_of(read_header(path))


def projector_of(header: GGUFHeader) -> Projector:
    """The same for a header that was read, or planned."""
    _require_vision(header)
    check_types(header)
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
    check_tensors(found)
    return found


def _require_vision(header: GGUFHeader) -> None:
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


def unchecked_projector(projector: Projector) -> Message | None:
    """What was not checked in a projector of another kind; None for one that pedsup knows."""
    if projector.known:
        return None
    return message(
        "WARNING: pedsup does not know projectors of the kind '{name}'. It checked the format and "
        "the types, not whether sizes and tensors fit together: a damaged file may crash "
        "llama.cpp. --strict refuses such projectors.",
        name=label(projector.kind),
    )


def matching_projector(path: Path, model: GGUFHeader) -> Projector:
    """`validate_projector` for the file beside a model: its embeddings are as wide as the model's.

    Raises:
        MismatchError: they are not.
    """
    projector = validate_projector(path)
    width = model.get("%s.embedding_length")
    if projector.n_embd_text != width:
        raise MismatchError(
            message("the projector gives embeddings of {n} numbers", n=projector.n_embd_text),
            where=path,
            wanted=message("{n}, as the model {path} has", n=width, path=model.path),
            remedy="give --mmproj the file that was exported with the model",
        )
    return projector


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
        raise wrong_value(header, key, wanted)
    return int(value)


def _merge(header: GGUFHeader) -> int:
    key = "clip.vision.projector.scale_factor"
    if header.get(key) is None:
        return _MERGE.get(_kind(header), 1)
    return _size(header, key, 64)


def _check_fields(p: Projector) -> None:
    """How the fields fit together."""
    header = p.header
    # Gemma 4 rotates two halves of a head, each by pairs.
    unit = 4 if p.kind == GEMMA4 else 1
    if p.n_embd % (p.n_head * unit):
        wanted = message("a divisor of {n}, the width", n=p.n_embd // unit)
        raise bad_value(header, "clip.vision.attention.head_count", p.n_head, wanted)
    check_numbers(header)
    if p.known:
        check_known(header, p.n_embd, p.n_head)
    if p.kind == GEMMA3 and p.image_size % (p.patch_size * p.merge):
        wanted = message("a multiple of {n}", n=p.patch_size * p.merge)
        raise bad_value(header, "clip.vision.image_size", p.image_size, wanted)


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
