"""Where each tensor of a checkpoint goes, for models of one stack of decoder layers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pedsup_export.arch.base import (
    Dropped,
    ModelTensors,
    OutputTensor,
    Shape,
    check_required,
    check_shape,
    name_map,
    unmapped,
)

_LAYER_TENSOR: Final = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
TABLES: Final = ("token_embd.weight", "output.weight")


@dataclass(frozen=True)
class Layout:
    """What a file of an architecture holds.

    Attributes:
        expected: layer and part ('attn_q') -> shape of its weight; parts without one are not
            checked.
        rest: tensors that are of no layer, and no table -> their shapes.
        required: names without which llama.cpp cannot load the file.
        tables: tensors with a row per token -> width of a row.
        plain: name in the checkpoint -> the name that gguf-py's table knows.
        left_out: name in the checkpoint -> why the file does not hold it, None where it does.
        biases: parts whose bias llama.cpp adds; None for all.
    """

    architecture: str
    n_layers: int
    expected: Callable[[int], Mapping[str, Shape]]
    required: frozenset[str]
    tables: Mapping[str, int]
    rest: Mapping[str, Shape] = field(default_factory=dict)
    plain: Callable[[str], str] = lambda source: source
    left_out: Callable[[str], str | None] = lambda source: None
    biases: frozenset[str] | None = field(default=frozenset())

    def shape(self, name: str) -> Shape | None:
        """The shape that a tensor must have, None where it is not known."""
        match = _LAYER_TENSOR.fullmatch(name)
        if match is None or (layer := int(match[1])) >= self.n_layers:
            return self.rest.get(name)
        weight = self.expected(layer).get(match[2])
        return weight[:1] if weight and match[3] == "bias" else weight

    def takes(self, name: str) -> bool:
        """Whether llama.cpp loads the tensor: some architectures have no biases."""
        if not name.endswith(".bias") or self.biases is None:
            return True
        match = _LAYER_TENSOR.fullmatch(name)
        return match is not None and match[2] in self.biases


def place(
    layout: Layout,
    shapes: Mapping[str, Shape] | None,
    n_tokens: int,
    make: Callable[[str, Shape, str], OutputTensor] = OutputTensor,
) -> ModelTensors:
    """Place every tensor of a checkpoint.

    Args:
        shapes: None for a model that is known by its configuration alone: then all tensors follow
            from the layout, under the file's names, with a head that is the token embeddings.
        n_tokens: rows of the token embeddings.
        make: name, shape and source -> the output tensor.

    Raises:
        UnsupportedError: a tensor has no place in the file.
        MismatchError: a tensor is not as config.json says.
        BadFileError: a tensor without which llama.cpp cannot run is missing.
    """
    if shapes is None:
        return ModelTensors(tuple(make(n, s, n) for n, s in _planned(layout, n_tokens).items()))
    look_up = name_map(layout.architecture, layout.n_layers)
    outputs, dropped, unknown = [], [], []
    for source, shape in shapes.items():
        if (reason := layout.left_out(source)) is not None:
            dropped.append(Dropped(source, shape, reason))
            continue
        name = look_up(layout.plain(source))
        if name is None or not layout.takes(name):
            unknown.append(source)
            continue
        if (wanted := layout.shape(name)) is not None:
            check_shape(source, shape, wanted)
        if (width := layout.tables.get(name)) is not None:
            check_shape(source, shape, (n_tokens, width))
        outputs.append(make(name, shape, source))
    if unknown:
        raise unmapped(unknown, layout.architecture)
    check_required(outputs, set(layout.required))
    return ModelTensors(tuple(outputs), tuple(dropped))


def _planned(layout: Layout, n_tokens: int) -> dict[str, Shape]:
    parts = {
        f"blk.{layer}.{part}.weight": shape
        for layer in range(layout.n_layers)
        for part, shape in layout.expected(layer).items()
    }
    widths = {name: width for name, width in layout.tables.items() if name != "output.weight"}
    return {**{n: (n_tokens, width) for n, width in widths.items()}, **parts, **layout.rest}


def projections(n_embd: int, q_rows: int, kv_rows: int, n_ff: int) -> dict[str, Shape]:
    """Shapes of the seven matrices of a layer, [out, in]."""
    return {
        "attn_q": (q_rows, n_embd),
        "attn_k": (kv_rows, n_embd),
        "attn_v": (kv_rows, n_embd),
        "attn_output": (n_embd, q_rows),
        "ffn_gate": (n_ff, n_embd),
        "ffn_up": (n_ff, n_embd),
        "ffn_down": (n_embd, n_ff),
    }


def layer_names(n_layers: int, parts: Iterable[str]) -> frozenset[str]:
    """The weights that every layer must have, and those of the model as a whole."""
    names = {f"blk.{i}.{part}.weight" for part in parts for i in range(n_layers)}
    return frozenset(names | {"token_embd.weight", "output_norm.weight"})
