"""Load a base and put LoRA on it: transformers and peft, or unsloth on CUDA where it is asked for.

Both return the same thing, a PEFT model and its tokenizer; everything above is one code path.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from pedsup.errors import MissingDependencyError, UnsupportedError
from pedsup.optional import require
from pedsup_train.model import unsloth_backend
from pedsup_train.model.answer_loss import use_answer_loss
from pedsup_train.model.base_source import is_prequantized, load_config, load_tokenizer
from pedsup_train.model.grid_layers import GridLayers, train_on_grids
from pedsup_train.model.host_table import move_table_to_host
from pedsup_train.model.sharding import is_sharded, refuse_unfit
from pedsup_train.model.targets import TargetPlan, check_adapted, plan_targets
from pedsup_train.model.versions import refuse_known_bad
from pedsup_train.recipe.schema import Recipe

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Backend = Literal["unsloth", "transformers"]
Optimizer = Literal["adamw_bnb_8bit", "adamw_torch"]
USED_PACKAGES: Final[dict[Backend, tuple[str, ...]]] = {
    "unsloth": ("transformers", "unsloth_zoo"),
    "transformers": ("transformers",),
}


@dataclass(frozen=True)
class Runtime:
    """Where and how the model is held."""

    backend: Backend
    device: Literal["cuda", "cpu"]
    dtype: Literal["float32", "bfloat16", "float16"]
    optimizer: Optimizer
    notes: tuple[str, ...] = ()


@dataclass
class Loaded:
    """A model ready to train."""

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    targets: TargetPlan
    n_trainable: int
    grids: GridLayers | None = None
    """With `train.quantize`: the layers that compute with rounded weights."""


def choose_runtime(recipe: Recipe) -> Runtime:
    """The policy: from recipe and machine to backend, device, precision and optimizer.

    Raises:
        UnsupportedError: a backend was asked for that does not run here.
    """
    torch = require("torch", extra="train")
    cuda, sharded = bool(torch.cuda.is_available()), is_sharded()
    backend = _choose_backend(recipe, cuda=cuda, sharded=sharded)
    notes: list[str] = []
    if backend == "unsloth":
        # Before transformers: it replaces functions that other modules take by name.
        unsloth_backend.load_library()
        if not unsloth_backend.compiles():
            notes.append("unsloth's compilation is off; UNSLOTH_COMPILE_DISABLE=0 turns it on")
    dtype = recipe.model.dtype
    if dtype == "auto":
        bf16 = cuda and torch.cuda.is_bf16_supported()
        dtype = "bfloat16" if bf16 else "float16" if cuda else "float32"
    eight_bit = recipe.train.optimizer == "adamw_8bit"
    if eight_bit and not cuda:
        notes.append("8-bit AdamW needs a GPU: the 32-bit one is used")
    elif eight_bit and sharded:
        notes.append("8-bit AdamW does not take weights in pieces: the 32-bit one is used")
    if sharded and not cuda:
        notes.append(
            "accelerate shares weights out over GPUs only: each process has the whole model"
        )
    optimizer: Optimizer = "adamw_bnb_8bit" if eight_bit and cuda and not sharded else "adamw_torch"
    return Runtime(backend, "cuda" if cuda else "cpu", dtype, optimizer, tuple(notes))


def _choose_backend(recipe: Recipe, *, cuda: bool, sharded: bool) -> Backend:
    """unsloth only by name: ours is as fast in two thirds of its memory (docs/train.md)."""
    if recipe.model.backend != "unsloth":
        return "transformers"
    on_grid = recipe.train.quantize != "none"
    if on_grid or sharded or not (cuda and unsloth_backend.is_installed()):
        raise UnsupportedError(
            "unsloth was asked for" + ("" if cuda else ", and there is no CUDA GPU"),
            remedy="pip install 'pedsup[train-gpu]'" if cuda else "--set model.backend=auto",
        )
    return "unsloth"


def load(recipe: Recipe, runtime: Runtime) -> Loaded:
    """Load the base, put LoRA on it and check that only LoRA would be trained.

    Raises:
        UnsupportedError: a library version known to train this model wrongly.
        BadFileError, HubError: as `load_config`.
    """
    config = load_config(recipe)
    refuse_known_bad(config.model_type, USED_PACKAGES[runtime.backend])
    refuse_unfit(recipe, prequantized=is_prequantized(config))
    tokenizer = load_tokenizer(recipe)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if runtime.backend == "unsloth":
        model, targets = unsloth_backend.load_model(recipe, runtime.dtype)
    else:
        model, targets = _transformers(recipe, runtime, config)
    n_trainable = check_adapted(model, targets)
    quant = recipe.train.quantize
    if quant == "none":
        return Loaded(model, tokenizer, targets, n_trainable)
    grids = train_on_grids(model, targets, Path(recipe.model.base), quant)
    return Loaded(model, tokenizer, targets, n_trainable, grids)


def _attention(recipe: Recipe) -> dict[str, str]:
    kind = recipe.model.attention
    return {} if kind == "auto" else {"attn_implementation": kind}


def _transformers(
    recipe: Recipe, runtime: Runtime, config: PretrainedConfig
) -> tuple[PeftModel, TargetPlan]:
    torch = require("torch", extra="train")
    transformers = require("transformers", extra="train")
    options: dict[str, object] = {
        "dtype": getattr(torch, runtime.dtype),
        "revision": recipe.model.revision or None,
        **_attention(recipe),
    }
    if recipe.model.quantization == "nf4" and not is_prequantized(config):
        require("bitsandbytes", extra="train")
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, runtime.dtype),
        )
    if runtime.device == "cuda" and not is_sharded():
        # One process per GPU under `accelerate launch`; each holds the whole model. FSDP takes
        # its pieces from the computer's memory.
        options["device_map"] = {"": int(os.environ.get("LOCAL_RANK", "0"))}
    model = transformers.AutoModelForCausalLM.from_pretrained(recipe.model.base, **options)
    save_memory(model, runtime)
    return add_lora(model, recipe)


def save_memory(model: PreTrainedModel, runtime: Runtime) -> None:
    """Leave out what training needs no GPU memory for: logits of prompts, the per-layer table."""
    if runtime.device == "cuda":
        move_table_to_host(model)
    use_answer_loss(model)


def add_lora(model: PreTrainedModel, recipe: Recipe) -> tuple[PeftModel, TargetPlan]:
    """Freeze `model` and put the recipe's LoRA on it, with adapter weights in float32.

    peft's `prepare_model_for_kbit_training` is not used: it turns every 16-bit tensor into
    float32, and on E4B that is the 2.8 B parameters of the per-layer embedding (5.6 GB more).
    """
    peft = require("peft", extra="train")
    targets = plan_targets(model, recipe.lora.targets)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for module in model.modules():
        # On CPUs with AVX-512 bf16, bitsandbytes repacks a 4-bit weight at its first evaluation
        # and rounds its scales to bfloat16: evaluating would change the base that is trained on
        # (and fails on rows shorter than a block).
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    if recipe.train.gradient_checkpointing:
        enable_checkpointing(model)
    model.config.use_cache = False
    lora = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.lora.r,
        lora_alpha=recipe.lora.alpha,
        lora_dropout=recipe.lora.dropout,
        use_rslora=recipe.lora.rslora,
        bias="none",
        target_modules=list(targets.names),
        revision=recipe.model.revision or None,
    )
    with warnings.catch_warnings():
        # peft 0.21 asks for an attribute that transformers 5.23 has renamed.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        return peft.get_peft_model(model, lora), targets


def enable_checkpointing(model: PreTrainedModel) -> None:
    """Recompute activations in the backward pass, under the name that this transformers has."""
    new = getattr(model, "activation_checkpointing_enable", None)
    if new is not None:
        new({"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def refuse_missing() -> None:
    """Raise `MissingDependencyError` at once if the training extra is not installed."""
    for module in ("torch", "transformers", "peft", "accelerate", "matplotlib", "packaging"):
        if importlib.util.find_spec(module) is None:
            raise MissingDependencyError(
                f"the Python package '{module}' is not installed",
                wanted="the optional group 'train'",
                remedy="pip install 'pedsup[train]'",
            )
