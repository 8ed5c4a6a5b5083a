"""The tensors of a projector: clip.cpp uses by name what a file holds, and asserts that it fits.

So a tower that pedsup knows may hold what it needs and what may be there, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from pedsup.errors import BadFileError
from pedsup.gguf_file.cursor import AGAIN
from pedsup.gguf_file.ggml_types import NO_WEIGHTS
from pedsup.gguf_file.projector_fields import GEMMA3, GEMMA4
from pedsup.gguf_file.tensor_table import TensorInfo
from pedsup.messages import message

if TYPE_CHECKING:
    from pedsup.gguf_file.projector import Projector

MAX_TOKENS: Final = 1120
"""Tokens of the largest picture that Gemma 4 was trained on."""
Shapes: TypeAlias = "dict[str, Callable[[Projector], tuple[int, ...]]]"

_LAYER: Final = re.compile(r"v\.blk\.(0|[1-9]\d{0,5})\.(.+)")
_CLAMP: Final = re.compile(r"\.(?:in|out)put_(?:min|max)$")
_PROJECTION: Final = "mm.input_projection.weight"
_POSITIONS: Final = "v.position_embd.weight"
_PATCHES: Final = "v.patch_embd.weight"


def _width(p: Projector) -> tuple[int, ...]:
    return (p.n_embd,)


def _one(p: Projector) -> tuple[int, ...]:
    return (1,)


_LAYER_SHAPES: Final[Shapes] = {
    **{f"attn_{name}.weight": lambda p: (p.n_embd, p.n_embd) for name in ("q", "k", "v", "out")},
    **{f"attn_{name}_norm.weight": lambda p: (p.n_embd // p.n_head,) for name in ("q", "k")},
    **{f"attn_{name}.bias": _width for name in ("q", "k", "v", "out")},
    **{f"{name}.{part}": _width for name in ("ln1", "ln2") for part in ("weight", "bias")},
    **{f"{name}_post_norm.weight": _width for name in ("attn", "ffn")},
    "out_scale.weight": _one,
    "ffn_up.weight": lambda p: (p.n_embd, p.n_ff),
    "ffn_gate.weight": lambda p: (p.n_embd, p.n_ff),
    "ffn_down.weight": lambda p: (p.n_ff, p.n_embd),
    "ffn_up.bias": lambda p: (p.n_ff,),
    "ffn_gate.bias": lambda p: (p.n_ff,),
    "ffn_down.bias": _width,
}
_SHAPES: Final[dict[str, Shapes]] = {
    GEMMA3: {
        _PROJECTION: lambda p: (p.n_embd_text, p.n_embd),
        "mm.soft_emb_norm.weight": _width,
        _PATCHES: lambda p: (p.patch_size, p.patch_size, 3, p.n_embd),
        "v.patch_embd.bias": _width,
        _POSITIONS: lambda p: (p.n_embd, (p.image_size // p.patch_size) ** 2),
        "v.post_ln.weight": _width,
        "v.post_ln.bias": _width,
    },
    GEMMA4: {
        _PROJECTION: lambda p: (p.n_embd, p.n_embd_text),
        _PATCHES: lambda p: (p.patch_size, p.patch_size, 3, p.n_embd),
    },
}
"""What each tensor of a tower that pedsup knows must look like, in ggml's order."""
_OPTIONAL: Final[dict[str, Shapes]] = {
    GEMMA3: {},
    GEMMA4: {"v.std_bias": _width, "v.std_scale": _width},
}
_NEEDED: Final = ("attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_out.weight",
                  "ln1.weight", "ln2.weight", "ffn_up.weight", "ffn_down.weight")  # fmt: skip
_TYPES: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    GEMMA3: {_PATCHES: ("F32", "F16", "BF16"), _POSITIONS: ("F32",)},
    GEMMA4: {_PATCHES: ("F32", "F16", "BF16")},
}
"""Of what llama.cpp does not compute in every type. Vectors are F32 everywhere."""


def check_tensors(p: Projector) -> None:
    """Refuse what clip.cpp would assert. Of an unknown projector only the types are checked.

    Raises:
        BadFileError: a tensor is missing, does not fit, or has no place in this tower.
    """
    for tensor in p.header.tensors.values():
        if tensor.type.name in NO_WEIGHTS:
            raise _bad(p, tensor.name, _type(tensor))
        if p.kind in _SHAPES and tensor.name.startswith(("v.", "mm.")):
            _check(p, tensor)
    if p.kind not in _SHAPES:
        return
    layers = [f"v.blk.{i}.{name}" for i in range(p.n_layer) for name in _NEEDED]
    for name in (*_SHAPES[p.kind], _POSITIONS, *layers):
        if name not in p.header.tensors:
            raise _bad(p, name, message("is missing"))


def _check(p: Projector, tensor: TensorInfo) -> None:
    name = tensor.name
    if name.startswith("mm.a."):
        return  # of the audio tower
    if p.kind == GEMMA4 and name == _POSITIONS:
        _check_positions(p, tensor)
        return
    rule = _rule(p.kind, name)
    if rule is None:
        raise _bad(p, name, message("does not belong to this vision tower"))
    if tensor.shape != rule(p):
        found = message(
            "has the shape {shape}, not {wanted}", shape=list(tensor.shape), wanted=list(rule(p))
        )
        raise _bad(p, name, found)
    vector = ("F32",) if len(tensor.shape) == 1 else (tensor.type.name,)
    if tensor.type.name not in _TYPES[p.kind].get(name, vector):
        raise _bad(p, name, _type(tensor))


def _rule(kind: str, name: str) -> Callable[[Projector], tuple[int, ...]] | None:
    if kind == GEMMA4 and _CLAMP.search(name):
        weight = _CLAMP.sub(".weight", name)
        return _one if _rule(kind, weight) else None
    layer = _LAYER.fullmatch(name)
    if layer:
        return _LAYER_SHAPES.get(layer[2])
    return {**_SHAPES[kind], **_OPTIONAL[kind]}.get(name)


def _check_positions(p: Projector, tensor: TensorInfo) -> None:
    """Gemma 4 looks rows up in two tables, one for columns and one for rows of patches."""
    shape = tensor.shape
    rows = MAX_TOKENS * p.merge  # a picture of one row of tokens
    if len(shape) != 3 or shape[0] != p.n_embd or shape[1] < rows or shape[2] != 2:
        found = message("has the shape {shape}", shape=list(shape))
        raise _bad(p, tensor.name, found)


def _type(tensor: TensorInfo) -> str:
    return message("has the type {type}", type=tensor.type.name)


def _bad(p: Projector, name: str, problem: str) -> BadFileError:
    return BadFileError(
        message("the tensor '{name}' {problem}", name=name, problem=problem),
        where=p.header.path,
        wanted=message("the vision tower that the file's fields describe ({kind})", kind=p.kind),
        remedy=AGAIN,
    )
