"""Before the first step: does this library compute what inference computes, and its gradients?

Versions known to be wrong are refused by name (`versions.py`); these two probes find
those that are not known yet. Both were silent in the wild: the loss looked fine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Final

from pedsup.errors import UnsupportedError
from pedsup.optional import require

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedTokenizerBase

FORWARD_TOLERANCE: Final = 0.1
"""Root mean square of a difference of logits, as a share of their spread: about 1 where the logits
have nothing to do with each other. Seen with E4B's shape in bfloat16 on an H100: 0."""
GRADIENT_COSINE: Final = 0.95
"""Lowest cosine between an adapter's gradients with and without checkpointing."""
TEXT: Final = "The child has fever and cough. El niño tiene fiebre y tos."
N_TOKENS: Final = 32


def check_forward(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, dtype: str = "float32"
) -> float:
    """Compare the logits of training (no cache, checkpointing on) with those of inference (cache).

    A library that trains KV-shared layers on other projections than inference uses shows here,
    whatever its version says: the two differ by as much as the logits themselves.

    Args:
        dtype: precision of the training's autocast.

    Returns:
        The root mean square of the difference divided by the standard deviation of the logits.

    Raises:
        UnsupportedError: they differ by more than `FORWARD_TOLERANCE`.
    """
    torch = require("torch", extra="train")
    ids = _ids(model, tokenizer)
    was_training = model.training
    try:
        with torch.no_grad(), _autocast(model, dtype):
            model.eval()
            inference = _logits(model, ids, use_cache=True)
            model.train()
            with _no_dropout(model):
                training = _logits(model, ids, use_cache=False)
    finally:
        model.train(was_training)
    difference = float((training - inference).square().mean().sqrt() / inference.std())
    if not difference <= FORWARD_TOLERANCE:
        raise UnsupportedError(
            f"training and inference compute different logits (by {difference:.2f} of their"
            " spread): the adapter would be trained on a wrong forward pass",
            where=type(model).__name__,
            wanted=f"a difference below {FORWARD_TOLERANCE}",
            remedy="update transformers and unsloth-zoo, or --set model.backend=transformers",
        )
    return difference


def check_gradients(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, dtype: str = "float32"
) -> float | None:
    """Compare the adapters' gradients with checkpointing with those without.

    Checkpointing must not change them. Where layers read the K/V of an earlier one, re-entrant
    checkpointing cuts the way back to that layer: its k_proj and v_proj then get gradients of a
    cosine of 0.14 to 0.55 to the right ones, at the right loss (unsloth-zoo #813).

    Returns:
        The lowest cosine over all lora_B (at the start lora_A has no gradient yet), or None when
        no layer is checkpointed.

    Raises:
        UnsupportedError: it is below `GRADIENT_COSINE`.
    """
    layers = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
    if not layers:
        return None
    worst, name = _lowest_cosine(*_both_gradients(model, layers, _ids(model, tokenizer), dtype))
    if not worst >= GRADIENT_COSINE:
        raise UnsupportedError(
            "gradient checkpointing changes the gradients: those of"
            f" '{name}' have a cosine of {worst:.2f} to the right ones",
            where=type(model).__name__,
            wanted=f"{GRADIENT_COSINE} or more",
            remedy="update transformers and unsloth-zoo, or --set model.backend=transformers,"
            " or --set train.gradient_checkpointing=false",
        )
    return worst


def _both_gradients(
    model: PeftModel, layers: Sequence[Module], ids: Tensor, dtype: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients with the layers' checkpointing, and without."""
    was_training = model.training
    try:
        model.train()
        with _no_dropout(model):
            with_it = _gradients(model, ids, dtype)
            for layer in layers:
                layer.gradient_checkpointing = False
            return with_it, _gradients(model, ids, dtype)
    finally:
        for layer in layers:
            layer.gradient_checkpointing = True
        model.train(was_training)
        model.zero_grad(set_to_none=True)


def _lowest_cosine(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[float, str]:
    """The lowest cosine of two gradients of one parameter, and its name; 1 where all agree."""
    cosine_similarity = require("torch.nn.functional", extra="train").cosine_similarity
    worst, worst_name = 1.0, ""
    for name, right in wanted.items():
        if float(right.norm()) == 0.0:
            continue
        ours = found.get(name)
        cosine = 0.0 if ours is None else float(cosine_similarity(ours, right, dim=0))
        if not cosine >= worst:
            worst, worst_name = cosine, name
    return worst, worst_name


def _ids(model: PeftModel, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    torch = require("torch", extra="train")
    ids: Tensor = torch.tensor([tokenizer(TEXT)["input_ids"][:N_TOKENS]], device=model.device)
    return ids


def _logits(model: PeftModel, ids: Tensor, *, use_cache: bool) -> Tensor:
    logits: Tensor = model(input_ids=ids, use_cache=use_cache).logits
    return logits.float()


def _gradients(model: PeftModel, ids: Tensor, dtype: str) -> dict[str, Tensor]:
    """Gradients of all lora_B as float32 vectors."""
    model.zero_grad(set_to_none=True)
    with _autocast(model, dtype):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    return {
        name: parameter.grad.detach().float().flatten().clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and "lora_B" in name
    }


def _autocast(model: PeftModel, dtype: str) -> AbstractContextManager[object]:
    """What `Trainer` computes in: 16 bit by autocast, 32 bit without."""
    if dtype == "float32":
        return nullcontext()
    torch = require("torch", extra="train")
    context: AbstractContextManager[object] = torch.autocast(
        model.device.type, dtype=getattr(torch, dtype)
    )
    return context


@contextmanager
def _no_dropout(model: Module) -> Iterator[None]:
    torch = require("torch", extra="train")
    dropouts = [m for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    rates = [module.p for module in dropouts]
    try:
        for module in dropouts:
            module.p = 0.0
        yield
    finally:
        for module, rate in zip(dropouts, rates, strict=True):
            module.p = rate
