"""Which base tensor takes which part of an adapter, and what no tensor takes.

Names are compared exactly, under the spellings that transformers has used for one model
(`model.language_model.layers` and `model.layers`; `.linear` inside the towers' clippable
layers; `.base_layer`). Nothing is guessed: a part that fits no name is reported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, TypeVar

import numpy as np

from pedsup.errors import MismatchError
from pedsup_export.adapter.folder import Adapter
from pedsup_export.adapter.tensors import LoraDelta
from pedsup_export.adapter.whole import TokenRows
from pedsup_export.source.tensor_source import TensorSource, n_rows

PREFIXES: Final = (
    "model.language_model.",
    "language_model.model.",
    "language_model.",
    "model.model.",
    "model.",
    "",
)
"""What may stand before `layers.` or `embed_tokens`: classes and versions of transformers."""

TOWERS: Final = frozenset(
    {
        "vision_tower",
        "audio_tower",
        "vision_model",
        "audio_model",
        "embed_vision",
        "embed_audio",
        "vision_embedder",
        "multi_modal_projector",
    }
)
T = TypeVar("T")
Kind = Literal["tower", "dead_kv", "unknown", "beside"]

REASONS: Final[Mapping[Kind, str]] = {
    "tower": "part of a vision or audio tower that this export does not have",
    "dead_kv": "K or V projection of a layer that shares the K/V of an earlier one: "
    "never used in the forward pass",
    "unknown": "the base has no such module",
    "beside": "llama.cpp computes with it without an adapter's part: it works only when merged",
}
DEAD_KV_NOTE: Final = (
    "A non-zero change of a dead K/V projection means that the adapter was trained with a "
    "library that used these projections in training (transformers before 5.6 with the cache "
    "off, transformers #45242): the whole adapter was fitted to a wrong forward pass. Train it "
    "again with a newer version, or go on only to reproduce an old result."
)


@dataclass(frozen=True)
class TensorChange:
    """All that an adapter does to one base tensor, in this order: replace, add, put rows."""

    replacement: TensorSource | None = None
    lora: LoraDelta | None = None
    tokens: TokenRows | None = None


@dataclass(frozen=True)
class UnusedDelta:
    """A part of the adapter that no tensor of the export takes.

    Attributes:
        module: path in the adapter (for a whole tensor with its '.weight').
        norm: Frobenius norm of the low-rank change, or of the whole tensor.
    """

    module: str
    kind: Kind
    norm: float
    reason: str


@dataclass(frozen=True)
class MatchReport:
    """The result of `match`: changes by base tensor name, what is left over, and warnings."""

    matched: Mapping[str, TensorChange]
    unused: tuple[UnusedDelta, ...]
    warnings: tuple[str, ...]

    @property
    def wrong_forward_pass(self) -> tuple[UnusedDelta, ...]:
        """Dead projections with a change that is not zero; see `DEAD_KV_NOTE`."""
        return tuple(u for u in self.unused if u.kind == "dead_kv" and u.norm > 0)


def candidates(name: str) -> list[str]:
    """The spellings under which a base may hold tensor `name` ('PATH.weight'), itself first."""
    path, dot, kind = name.rpartition(".")
    if not dot:
        return [name]
    path = path.removesuffix(".base_layer")
    paths = [path]
    for prefix in PREFIXES:
        if path.startswith(prefix):
            paths += [other + path.removeprefix(prefix) for other in PREFIXES]
    paths += [_other_siglip(p) for p in paths]
    paths += [p.removesuffix(".linear") if p.endswith(".linear") else f"{p}.linear" for p in paths]
    return [f"{p}.{kind}" for p in dict.fromkeys(paths)]


def _other_siglip(path: str) -> str:
    """SigLIP's tower with or without the class around it."""
    if "vision_tower.vision_model." in path:
        return path.replace("vision_tower.vision_model.", "vision_tower.")
    return path.replace("vision_tower.", "vision_tower.vision_model.")


def find(name: str, base: Mapping[str, object]) -> str | None:
    """The tensor of `base` that is `name` in one of its spellings, or None.

    Raises:
        MismatchError: several spellings exist, and none is the name itself.
    """
    found = [c for c in candidates(name) if c in base]
    if len(found) > 1 and found[0] != name:
        raise MismatchError(
            f"'{name}' of the adapter may be any of {', '.join(found[:3])}",
            wanted="one tensor of that name in the base",
            remedy="give the base that the adapter was trained on",
        )
    return found[0] if found else None


def match(
    adapter: Adapter,
    base: Mapping[str, tuple[int, ...]],
    *,
    is_dead: Callable[[str], bool] = lambda name: False,
) -> MatchReport:
    """Bring adapter and base together.

    Args:
        base: shape of every base tensor by name (of 4-bit weights the unpacked shape).
        is_dead: whether a tensor name is a projection that the model never uses; it is asked
            for every spelling of a name, whether the base holds the tensor or not.

    Raises:
        MismatchError: a shape differs, or no part of the adapter fits this base.
    """
    unused: list[UnusedDelta] = []
    place = partial(_place, base, is_dead, unused)
    whole: dict[str, TensorSource] = {}
    lora: dict[str, LoraDelta] = {}
    tokens: dict[str, TokenRows] = {}
    for name, source in adapter.replacements.items():
        if target := place(name, partial(_norm, source)):
            _check_shape(name, source.shape, base[target], adapter)
            _once(whole, target, source, name)
    for module, delta in adapter.deltas.items():
        if target := place(f"{module}.weight", delta.norm):
            _check_shape(module, delta.shape, base[target], adapter)
            _once(lora, target, delta, module)
    for module, rows in adapter.tokens.items():
        if target := place(f"{module}.weight", rows.norm):
            _check_tokens(rows, base[target], adapter)
            _once(tokens, target, rows, module)
    changes = {
        name: TensorChange(whole.get(name), lora.get(name), tokens.get(name))
        for name in base
        if name in whole or name in lora or name in tokens
    }
    _check_any(changes, unused, adapter)
    return MatchReport(changes, tuple(unused), adapter.warnings)


def _place(
    base: Mapping[str, object],
    is_dead: Callable[[str], bool],
    unused: list[UnusedDelta],
    name: str,
    norm: Callable[[], float],
) -> str | None:
    """The base tensor that takes `name`; what has none goes to `unused`."""
    target = find(name, base)
    kind: Kind | None = None
    if target is None and not TOWERS.isdisjoint(name.split(".")):
        kind = "tower"
    elif any(map(is_dead, candidates(name))):
        kind = "dead_kv"
    elif target is None:
        kind = "unknown"
    if kind is None:
        return target
    unused.append(UnusedDelta(name.removesuffix(".weight"), kind, norm(), REASONS[kind]))
    return None


def _once(changes: dict[str, T], target: str, change: T, name: str) -> None:
    if target in changes:
        raise MismatchError(
            f"two parts of the adapter change '{target}', the second is '{name}'",
            wanted="one change of each tensor",
            remedy="save the adapter again with peft's save_pretrained",
        )
    changes[target] = change


def _norm(source: TensorSource) -> float:
    total, step = 0.0, 1024
    for lo in range(0, n_rows(source), step):
        part = source.rows(lo, min(lo + step, n_rows(source))).astype(np.float64)
        total += float(np.sum(part * part))
    return float(np.sqrt(total))


def _wrong_base(adapter: Adapter, found: str, wanted: str) -> MismatchError:
    trained_on = adapter.base_model_name
    hint = f" (trained on {trained_on})" if trained_on else ""
    return MismatchError(
        found,
        where=adapter.folder,
        wanted=wanted,
        remedy=f"this is probably the adapter of another model{hint}: give its own base",
    )


def _check_shape(name: str, ours: tuple[int, ...], base: tuple[int, ...], adapter: Adapter) -> None:
    if ours != base:
        raise _wrong_base(
            adapter,
            f"the adapter changes '{name}' as {list(ours)}, the base has {list(base)} there",
            "equal shapes",
        )


def _check_tokens(tokens: TokenRows, base: tuple[int, ...], adapter: Adapter) -> None:
    _check_shape(tokens.module, (base[0], *tokens.rows.shape[1:]), base, adapter)
    if max(tokens.indices) >= base[0]:
        raise _wrong_base(
            adapter,
            f"the adapter replaces token {max(tokens.indices)}, the base has {base[0]} tokens",
            "tokens of this vocabulary",
        )


def _check_any(
    changes: dict[str, TensorChange], unused: list[UnusedDelta], adapter: Adapter
) -> None:
    if not changes and all(u.kind == "unknown" for u in unused):
        raise _wrong_base(
            adapter,
            f"no module of the adapter exists in the base (first: '{unused[0].module}')",
            "an adapter of this base",
        )


def base_name_warning(adapter: Adapter, base_name: str | None) -> str | None:
    """A warning when adapter and base name different models; None when they agree or are silent.

    Compared are the last parts of the names without case, owner and the usual suffixes of
    quantized copies, so that the 16-bit base of a 4-bit training base passes.
    """
    trained_on = adapter.base_model_name
    if not trained_on or not base_name or _core(trained_on) == _core(base_name):
        return None
    return f"the adapter was trained on '{trained_on}', the base is '{base_name}'"


def _core(name: str) -> str:
    """The model's own name in a hub id, a path of any system, or a path of the hub's cache."""
    parts = [part for part in re.split(r"[/\\]", name) if part]
    cached = next((p for p in parts if p.startswith("models--")), None)
    core = cached.rpartition("--")[2] if cached else (parts or [name])[-1]
    core = core.lower()
    for suffix in ("-bnb-4bit", "-unsloth", "-4bit", "-bf16", "-qat"):
        core = core.removesuffix(suffix)
    return core
