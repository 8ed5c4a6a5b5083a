"""Which projections get an adapter: the language model's, where its forward pass uses them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pedsup.errors import MismatchError, UnsupportedError

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import PretrainedConfig, PreTrainedModel

_LAYER: Final = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_TOWERS: Final = re.compile(
    r"(?:^|\.)(vision|audio|visual|image|multi_modal|mm_|embed_vision|embed_audio)"
)


@dataclass(frozen=True)
class TargetPlan:
    """Full module names that get LoRA, and those of the same kind that do not, with the reason."""

    names: tuple[str, ...]
    dead: tuple[str, ...]
    """K/V projections of layers that read another layer's K/V: nothing ever reads theirs."""
    towers: tuple[str, ...]
    """Vision and audio: the text file that is exported has no place for them."""


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """The language model's part of a config."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def is_tower(name: str) -> bool:
    """Whether a module or tensor belongs to the vision or audio part of a multimodal model."""
    return _TOWERS.search(name) is not None


def first_shared_layer(config: PretrainedConfig) -> int:
    """Number of the first layer that reuses K/V (the number of layers when none does)."""
    text = text_config(config)
    return int(text.num_hidden_layers) - int(getattr(text, "num_kv_shared_layers", 0) or 0)


def plan_targets(model: PreTrainedModel, suffixes: tuple[str, ...]) -> TargetPlan:
    """Walk the modules of a model (weights may be on the meta device).

    Raises:
        UnsupportedError: no module fits.
    """
    import torch

    shared = first_shared_layer(model.config)
    names: list[str] = []
    dead: list[str] = []
    towers: list[str] = []
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if last not in suffixes:
            continue
        layer = _LAYER.search(name)
        if is_tower(name):
            towers.append(name)
        elif layer is None or not isinstance(module, torch.nn.Linear):
            continue
        elif last in ("k_proj", "v_proj") and int(layer[1]) >= shared:
            dead.append(name)
        else:
            names.append(name)
    if not names:
        raise UnsupportedError(
            f"the model has none of the projections {', '.join(suffixes)}",
            where=type(model).__name__,
            remedy="set lora.targets in the recipe",
        )
    return TargetPlan(tuple(names), tuple(dead), tuple(towers))


def check_adapted(model: Module, plan: TargetPlan) -> int:
    """Assert that exactly the LoRA weights of the plan are trainable; their number.

    Raises:
        MismatchError: something else would be trained, or a target has no adapter.
    """
    trainable = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    wanted = set(plan.names)
    found: set[str] = set()
    for name in trainable:
        target = re.sub(r"^base_model\.model\.", "", name).partition(".lora_")[0]
        if ".lora_" not in name or target not in wanted:
            raise MismatchError(f"the parameter '{name}' would be trained", wanted="LoRA only")
        found.add(target)
    if missing := sorted(wanted - found):
        raise MismatchError(
            f"{len(missing)} targets got no adapter, '{missing[0]}' first",
            wanted=f"an adapter on all {len(wanted)}",
        )
    return sum(trainable.values())
