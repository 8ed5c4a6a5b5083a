"""FSDP2: the base's weights shared out over several GPUs, by accelerate (`accelerate/fsdp2.yaml`).

Which way of several processes it is, accelerate's launcher says by its own environment variables.
"""

from __future__ import annotations

import os
import re
from typing import Any, Final

from pedsup.errors import UnsupportedError
from pedsup_train.model.targets import is_tower
from pedsup_train.recipe.schema import Recipe

_LAYER: Final = re.compile(r"(?:^|\.)layers\.\d+$")
LAUNCH: Final = (
    'accelerate launch --config_file "$(pedsup-train accelerate-config --fsdp)" -m pedsup_train ...'
)


def is_sharded() -> bool:
    """Whether this process was launched for FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def refuse_unfit(recipe: Recipe, *, prequantized: bool) -> None:
    """Refuse what FSDP would train wrongly or not at all; nothing where it is off.

    Args:
        prequantized: the base itself is stored in 4 bit.

    Raises:
        UnsupportedError: with the way to train this on several GPUs.
    """
    if not is_sharded():
        return
    if recipe.model.quantization == "nf4" or prequantized:
        raise UnsupportedError(
            "FSDP does not share out 4-bit weights: bitsandbytes' packed tensors would be held"
            " whole by each process",
            wanted="a base in 16 bit, or one whole 4-bit model per GPU",
            remedy="--set model.quantization=none with a 16-bit base; or stay in 4 bit:"
            ' accelerate launch --config_file "$(pedsup-train accelerate-config)" ...',
        )
    if recipe.train.quantize != "none":
        raise UnsupportedError(
            f"train.quantize = {recipe.train.quantize!r} with FSDP: a matrix in pieces has no grid",
            remedy="--set train.quantize=none, or the configuration without FSDP:"
            " pedsup-train accelerate-config",
        )
    if recipe.model.backend == "unsloth":
        raise UnsupportedError(
            "the unsloth backend with FSDP", remedy="--set model.backend=transformers"
        )
    for name, wanted, default in (
        ("FSDP_VERSION", "2", "1"),
        ("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT", ""),
    ):
        found = os.environ.get(name, default)
        if found != wanted:
            raise UnsupportedError(
                f"{name} is {found or 'not set'} in accelerate's configuration",
                wanted=wanted,
                remedy=f"take the shipped one: {LAUNCH}",
            )


def name_units(model: Any) -> None:
    """Tell accelerate the class of the decoder layers, each of which becomes a unit of FSDP.

    By itself it takes the classes that transformers lists for the architecture, and fails at those
    that the model does not have: Gemma 4's list has layers of towers that the text model lacks
    (transformers 5.23).
    """
    if is_sharded():
        names = {
            type(module).__name__
            for name, module in model.named_modules()
            if _LAYER.search(name) and not is_tower(name)
        }
        os.environ["FSDP_TRANSFORMER_CLS_TO_WRAP"] = ",".join(sorted(names))


def keep_head_whole(model: Any) -> None:
    """Let each process keep the whole output head from one step to the next; nothing without FSDP.

    `answer_loss` uses the head once for each piece of the answers. Before torch 2.13 FSDP shares
    the head's weight out again after the backward pass of the first piece, and the next one fails.
    The weight is frozen, so the copy stays right. An E4B's takes 1.25 GiB.
    """
    if is_sharded():
        set_reshard = getattr(model.get_output_embeddings(), "set_reshard_after_backward", None)
        if set_reshard is not None:
            set_reshard(False, recurse=False)


def whole_adapter(model: Any) -> dict[str, Any] | None:
    """The adapter's tensors gathered from all processes; None where they are whole already.

    Every process must call it, in the same place: each tensor is a collective operation.

    Returns:
        float32 tensors on the CPU by parameter name, which `save_pretrained(state_dict=...)` takes.
    """
    if not is_sharded():
        return None
    found = {}
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            gather = getattr(parameter, "full_tensor", None)
            whole = parameter if gather is None else gather()
            found[name] = whole.detach().cpu()
    return found
