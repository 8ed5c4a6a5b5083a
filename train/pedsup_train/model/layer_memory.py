"""What a model's layers take of a GPU, counted on the shapes of its modules (no weight is loaded).

The counts per token are those of the tensors that torch's autograd keeps for the backward pass of a
frozen base with LoRA under autocast. W is frozen, so a product x W keeps nothing; the rest is noted
beside each term.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pedsup.optional import require
from pedsup_train.model.host_table import NAME as TABLE
from pedsup_train.model.targets import TargetPlan, is_tower

NF4_BLOCK: Final = 64
NF4_NESTED: Final = 256
"""bitsandbytes' blocks: 4 bits a weight, one byte a block of 64 (double quantization), one float32
for 256 of those bytes."""
COUNTED: Final = frozenset({
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    "per_layer_input_gate", "per_layer_projection",
})  # fmt: skip
"""Modules with a matrix that `LayerShape` has a width of."""
_LAYER: Final = re.compile(r"(?:^|\.)layers\.(\d+)$")


@dataclass(frozen=True)
class HeldWeights:
    """Bytes of the frozen base by how they are held."""

    linear: int
    """Projections, in 4 bit or as they are computed in."""
    other: int
    """Embeddings, norms and what else stays in 16 or 32 bit."""
    table: int
    """The per-layer table of a Gemma 4; the transformers backend keeps it off the GPU."""


@dataclass(frozen=True)
class LayerShape:
    """Widths of one decoder layer and which of its projections have an adapter."""

    hidden: int
    query: int
    key: int
    feed_forward: int
    per_layer: int
    n_norms: int
    """Norms over the hidden width."""
    head_norms: tuple[str, ...]
    adapted: frozenset[str]
    uncounted: frozenset[str]
    """Its matrices that are in no count: of experts, or two projections in one."""

    def kept_bytes(self, element: int, dropout: bool) -> int:
        """Bytes a token that the backward pass of this layer needs.

        Args:
            element: bytes of the type that is computed in.
            dropout: whether LoRA drops inputs out: each adapter then keeps its own input and a
                mask of one byte; without, those that read the same input share it.
        """

        def inputs(names: tuple[str, ...], width: int, *, kept: bool) -> int:
            n = len(self.adapted & set(names))
            if dropout:
                return n * (element + 1) * width
            return 0 if kept or n == 0 else element * width

        norms = 4 * self.hidden * self.n_norms  # x in float32
        norms += 4 * self.query * ("q_norm" in self.head_norms)
        norms += 4 * self.key * len(set(self.head_norms) - {"q_norm"}) * (self.key > 0)
        attention = 4 * element * self.query  # q, k and v for all heads, and what comes out
        gated = 3 * element * (self.feed_forward + self.per_layer)  # gate, its activation, up
        return (
            norms + attention + gated
            + inputs(("q_proj", "k_proj", "v_proj"), self.hidden, kept=False)
            + inputs(("o_proj",), self.query, kept=True)
            + inputs(("gate_proj", "up_proj"), self.hidden, kept=False)
            + inputs(("down_proj",), self.feed_forward, kept=False)
        )  # fmt: skip

    def gradient_bytes(self, element: int) -> int:
        """Bytes a token of the gradients that are alive at once: two of each width."""
        return 2 * element * (self.feed_forward + self.hidden)


def meta_model(config: Any) -> Any:
    """The model of a config without its weights.

    Args:
        config: of transformers; the class is the one that training loads.
    """
    torch = require("torch", extra="train")
    transformers = require("transformers", extra="train")
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


def held_weights(model: Any, element: int, *, nf4: bool, skipped: tuple[str, ...]) -> HeldWeights:
    """Bytes of the base's weights on a GPU.

    Args:
        element: bytes of a weight that is not in 4 bit.
        nf4: projections are held in 4 bit, as bitsandbytes does it.
        skipped: parts of names that it leaves alone; the output head always is one.
    """
    torch = require("torch", extra="train")
    head = model.get_output_embeddings()
    linear = other = table = 0
    seen: set[int] = set()
    for name, module in model.named_modules():
        packed = nf4 and isinstance(module, torch.nn.Linear) and module is not head
        packed = packed and not any(part in name for part in skipped)
        for weight in module.parameters(recurse=False):
            if id(weight) in seen:
                continue
            seen.add(id(weight))
            n = weight.numel()
            if packed and weight.ndim == 2:
                blocks = -(-n // NF4_BLOCK)
                linear += -(-n // 2) + blocks + 4 * -(-blocks // NF4_NESTED)
            elif name.rpartition(".")[2] == TABLE:
                table += n * element
            elif isinstance(module, torch.nn.Linear) and module is not head:
                linear += n * element
            else:
                other += n * element
    return HeldWeights(linear, other, table)


def layer_shapes(model: Any, targets: TargetPlan) -> Iterator[LayerShape]:
    """The decoder layers of the language model, in order."""
    adapted = set(targets.names)
    for name, layer in model.named_modules():
        if _LAYER.search(name) and not is_tower(name):
            yield _shape(name, layer, adapted)


def _shape(name: str, layer: Any, adapted: set[str]) -> LayerShape:
    linear = {
        child.rpartition(".")[2]: module
        for child, module in layer.named_modules()
        if getattr(module, "in_features", None)
    }
    norms = [child for child, m in layer.named_modules() if type(m).__name__.endswith("Norm")]

    def width(part: str) -> int:
        return int(linear[part].out_features) if part in linear else 0

    query = width("q_proj")
    return LayerShape(
        hidden=int(linear["q_proj"].in_features) if query else 0,
        query=query,
        key=width("k_proj"),
        feed_forward=width("up_proj"),
        per_layer=width("per_layer_input_gate"),
        n_norms=sum("." not in child for child in norms),
        head_norms=tuple(c.rpartition(".")[2] for c in norms if "." in c),
        adapted=frozenset(
            target.rpartition(".")[2] for target in adapted if target.startswith(f"{name}.")
        ),
        uncounted=frozenset(
            part
            for child, weight in layer.named_parameters()
            if weight.ndim > 1
            and (part := child.removesuffix(".weight")).rpartition(".")[2] not in COUNTED
        ),
    )
