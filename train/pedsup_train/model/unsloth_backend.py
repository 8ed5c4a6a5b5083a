"""The unsloth backend: its import, its model, and what it must not do to the rest of the run."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from pedsup.files.paths import cache_folder
from pedsup.optional import require
from pedsup_train.model.targets import TargetPlan, plan_targets
from pedsup_train.recipe.schema import Recipe

if TYPE_CHECKING:
    from peft import PeftModel


def is_installed() -> bool:
    """Whether unsloth can be found; it is not imported."""
    return importlib.util.find_spec("unsloth") is not None


def load_library() -> ModuleType:
    """Import unsloth, with its habits set before (it reads most of them at import).

    Each can be set otherwise in the environment:

    - It counts its users by a download from the hub (two minutes where packets vanish): off.
    - It compiles each layer. With Gemma 4's shared K/V and checkpointing that took more than five
      minutes for no step (E4B on an H100), or ended in a `CheckpointError` (a tiny Gemma 4), as in
      unsloth-zoo #1146: off. `UNSLOTH_COMPILE_DISABLE=0` turns it on, for other models.
    - It writes generated modules into the working directory: they go to pedsup's cache.
    """
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    os.environ.setdefault("UNSLOTH_COMPILE_DISABLE", "1")
    generated = cache_folder() / "unsloth_compiled_cache"
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(generated))
    with contextlib.redirect_stdout(sys.stderr):  # its banners; stdout is for results
        return require("unsloth", extra="train-gpu")


def compiles() -> bool:
    """Whether unsloth will compile, by its own environment variable."""
    return os.environ.get("UNSLOTH_COMPILE_DISABLE", "0") not in ("1", "partial")


def load_model(recipe: Recipe, dtype: str) -> tuple[PeftModel, TargetPlan]:
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
