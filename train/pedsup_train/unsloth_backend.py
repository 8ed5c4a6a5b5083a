"""The unsloth backend: its import, its model, and what it must not do to the rest of the run."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from pedsup.optional import require
from pedsup.paths import cache_folder
from pedsup_train.recipe import Recipe
from pedsup_train.targets import TargetPlan, plan_targets


def is_installed() -> bool:
    """Whether unsloth can be found; it is not imported."""
    return importlib.util.find_spec("unsloth") is not None


def load_library() -> Any:
    """Import unsloth, with its habits set before.

    It counts its users by a download from the hub, which hangs for two minutes where only a part
    of the network is reachable, and writes the modules that it generates into the working
    directory; the first is off, the second goes to pedsup's cache. Both can be set otherwise.
    """
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    os.environ.setdefault(
        "UNSLOTH_COMPILE_LOCATION", str(cache_folder() / "unsloth_compiled_cache")
    )
    return require("unsloth", extra="train-gpu")


def load_model(recipe: Recipe, dtype: str) -> tuple[Any, TargetPlan]:
    """The recipe's base with LoRA on it.

    Args:
        dtype: name of the torch dtype of weights that are not in 4 bit.
    """
    torch = require("torch", extra="train")
    unsloth = load_library()
    model, _ = unsloth.FastModel.from_pretrained(
        model_name=recipe.model.base,
        revision=recipe.model.revision or None,
        max_seq_length=recipe.data.max_length,
        dtype=getattr(torch, dtype),
        load_in_4bit=recipe.model.quantization == "nf4",
        full_finetuning=False,
    )
    targets = plan_targets(model, recipe.lora.targets)
    model = unsloth.FastModel.get_peft_model(
        model,
        r=recipe.lora.r,
        lora_alpha=recipe.lora.alpha,
        lora_dropout=recipe.lora.dropout,
        use_rslora=recipe.lora.rslora,
        bias="none",
        # unsloth takes names or one regex; the regex names each module in full.
        target_modules="|".join(name.replace(".", r"\.") for name in targets.names),
        use_gradient_checkpointing="unsloth" if recipe.train.gradient_checkpointing else False,
        random_state=recipe.train.seed,
    )
    return model, targets
