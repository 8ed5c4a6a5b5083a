"""LoRA layers that compute with the weights that will ship: base plus change, rounded.

Ordinary training sees `W + s B A`, and export then rounds it to 4 bits: part of what was learnt
is lost. Here the forward pass of an adapted projection multiplies by the rounded matrix, and
the gradient passes the rounding unchanged (straight-through, Bengio et al. 2013; for low-rank
adapters: LR-QAT, Bondarenko et al. 2024). No other parameters are trained, and the adapter is
an ordinary one.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pedsup.errors import UnsupportedError
from pedsup.gguf_file.ggml_types import BY_NAME
from pedsup_train.model.grids import CHUNK, Grid, GridType, fit, refuse_no_grid, snap
from pedsup_train.model.shipped_types import checkpoint_shapes, gguf_name, shipped_types
from pedsup_train.model.targets import TargetPlan, is_tower

if TYPE_CHECKING:
    from collections.abc import Callable

    from peft import PeftModel
    from peft.tuners.lora import Linear
    from torch import Tensor
    from torch.autograd.function import FunctionCtx
    from torch.nn import Module

ADAPTER: Final = "default"


@dataclass
class GridLayers:
    """The adapted projections of a model whose forward passes round, by module name."""

    layers: dict[str, Linear]
    kinds: dict[str, GridType]

    def refit(self) -> None:
        """Choose all block scales again, from the present weights."""
        for kind, names in self._groups():
            block = BY_NAME[kind].block_size
            weights = [merged_weight(self.layers[name]).reshape(-1, block) for name in names]
            joined = fit(_cat(weights), kind)
            for name, part in zip(names, _split(joined, [w.numel() for w in weights]), strict=True):
                self.layers[name].grid = part

    def _groups(self) -> Iterator[tuple[GridType, list[str]]]:
        """Layers of one type together, up to `CHUNK` weights: fewer and larger kernels."""
        for kind in sorted(set(self.kinds.values())):
            group: list[str] = []
            size = 0
            for name in (n for n, k in self.kinds.items() if k == kind):
                count = self.layers[name].base_layer.weight.numel()
                if group and size + count > CHUNK:
                    yield kind, group
                    group, size = [], 0
                group.append(name)
                size += count
            yield kind, group


def train_on_grids(model: PeftModel, targets: TargetPlan, base: Path, quant: str) -> GridLayers:
    """Round a PEFT model as a file of the type `quant` will hold it; adapted layers at each step.

    Frozen matrices, the tables among them, are rounded once, in place. Tensors that the file
    keeps in 16 or 32 bit stay as they are.

    Raises:
        UnsupportedError: the exporter writes no such file, or not this type for these rows.
    """
    inner = model.get_base_model()
    types_by_name = shipped_types(inner.config, checkpoint_shapes(base), quant)
    adapted = set(targets.names)
    kinds: dict[str, GridType] = {}
    for name, weight in _matrices(inner):
        module = name.replace(".base_layer", "").removesuffix(".weight")
        found = None if is_tower(module) else types_by_name.get(gguf_name(module) or "")
        if found is None or found in ("F32", "F16", "BF16"):
            if module in adapted:
                raise UnsupportedError(
                    f"a {quant} file holds no rounded matrix for an adapted projection",
                    where=module,
                    remedy="take it out of lora.targets",
                )
            continue
        kind = refuse_no_grid(found, weight.shape[1], module)
        if module in adapted:
            kinds[module] = kind
        else:
            round_in_place(weight, kind)
    return put_on_grids(model, kinds)


def _matrices(model: Module) -> Iterator[tuple[str, Tensor]]:
    """Frozen two-dimensional weights by name; a table in the computer's memory is one too."""
    seen: set[int] = set()
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if weight is None or weight.ndim != 2 or ".lora_" in name or id(weight) in seen:
            continue
        seen.add(id(weight))  # a tied head is the token table
        yield f"{name}.weight", weight


def put_on_grids(model: PeftModel, kinds: Mapping[str, GridType]) -> GridLayers:
    """Let the named LoRA layers of a PEFT model compute with rounded weights.

    Args:
        model: a `PeftModel` whose base weights are in 16 or 32 bit.
        kinds: the type that the file holds each adapted module in, by its name in the base.
    """
    base = model.get_base_model()
    layers = {name: base.get_submodule(name) for name in kinds}
    for layer in layers.values():
        layer.forward = types.MethodType(_forward, layer)
    grids = GridLayers(layers, dict(kinds))
    grids.refit()
    return grids


def round_in_place(weight: Tensor, kind: GridType) -> None:
    """Round a frozen matrix as the file will hold it (in its own dtype), some rows at a time."""
    import torch

    rows = max(1, CHUNK // weight.shape[1])
    with torch.no_grad():
        for piece in weight.data.split(rows):
            values = piece.float()
            piece.copy_(snap(values, fit(values, kind)))


def merged_weight(layer: Linear) -> Tensor:
    """Base weight plus the adapter's change, float32 [n_out, n_in], as the exporter adds them."""
    import torch

    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    with torch.no_grad(), torch.autocast(a.device.type, enabled=False):
        change = b.detach().float() @ a.detach().float()
        return torch.add(
            layer.base_layer.weight.detach().float(), change, alpha=layer.scaling[ADAPTER]
        )


def _cat(weights: list[Tensor]) -> Tensor:
    import torch

    return weights[0] if len(weights) == 1 else torch.cat(weights)


def _split(grid: Grid, counts: list[int]) -> list[Grid]:
    """One grid for matrices that stand one after the other, as a grid for each."""
    total, blocks = sum(counts), grid.scale.shape[0]
    sizes = [count * blocks // total for count in counts]
    fields = [
        [None] * len(sizes) if field is None else field.split(sizes)
        for field in (grid.scale, grid.offset, grid.inverse)
    ]
    return [Grid(grid.kind, *parts) for parts in zip(*fields, strict=True)]


def _forward(layer: Linear, x: Tensor, *args: object, **kwargs: object) -> Tensor:
    """The forward pass of a LoRA layer on its grid; x [..., n_in] -> [..., n_out]."""
    import torch

    weight = snap(merged_weight(layer), layer.grid)
    out = torch.nn.functional.linear(x, weight.to(x.dtype), layer.base_layer.bias)
    if not torch.is_grad_enabled():
        return out
    # The gradient of the adapter is that of `x (W + s B A)'`; x itself has it through `out`.
    a, b = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
    change = b(a(x.detach().to(a.weight.dtype))) * layer.scaling[ADAPTER]
    return _through()(out, change)


@functools.cache
def _through() -> Callable[[Tensor, Tensor], Tensor]:
    """`(out, change) -> out`, whose gradient goes to both."""
    import torch

    class Through(torch.autograd.Function):
        @staticmethod
        def forward(ctx: FunctionCtx, out: Tensor, change: Tensor) -> Tensor:
            ctx.change_dtype = change.dtype
            return out.view_as(out)

        @staticmethod
        def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, Tensor]:
            return gradients[0], gradients[0].to(ctx.change_dtype)

    apply: Callable[[Tensor, Tensor], Tensor] = Through.apply
    return apply
