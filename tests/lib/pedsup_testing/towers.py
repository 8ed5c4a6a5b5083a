"""Tiny random checkpoints with towers, as Google releases them, and adapters that change them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pedsup_testing import tiny_models
from pedsup_testing.kept import kept

GEMMA4_PROCESSOR = {
    "image_processor": {"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0],
                        "patch_size": 4, "pooling_kernel_size": 3, "max_soft_tokens": 280},
    "feature_extractor": {"feature_size": 128, "sampling_rate": 16000},
}  # fmt: skip
GEMMA3_PROCESSOR = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
                    "image_seq_length": 4}  # fmt: skip


@kept
def gemma4(folder: Path, *, seed: int = 7) -> Path:
    """A Gemma 4 whose two towers have two layers each and clip what goes in and comes out.

    Some bounds are finite, others infinite; the audio tower's scales are not all the same. The
    table of positions is as long as the largest picture needs.
    """
    import torch
    from transformers import Gemma4AudioConfig, Gemma4Config, Gemma4VisionConfig
    from transformers import Gemma4ForConditionalGeneration as Model

    vision = Gemma4VisionConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=32, patch_size=4, position_embedding_size=3392,
        use_clipped_linears=True,
    )  # fmt: skip
    audio = Gemma4AudioConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, output_proj_dims=32
    )
    config = Gemma4Config(
        text_config=tiny_models.gemma4_text_config(), vision_config=vision, audio_config=audio
    )

    def change(model: Any) -> None:
        for name, buffer in model.named_buffers():
            if name.endswith(("put_max", "put_min")) and "layers.0" in name:
                buffer.fill_(8.0 if name.endswith("max") else -8.0)
        for name, parameter in model.named_parameters():
            if name.endswith("per_dim_scale"):
                parameter.copy_(torch.linspace(-2, 2, parameter.numel()))
            elif name.endswith("position_embedding_table"):
                parameter.normal_(0, 0.1)

    _save(folder, Model, config, seed, change)
    (folder / "processor_config.json").write_text(json.dumps(GEMMA4_PROCESSOR))
    return folder


@kept
def gemma3(folder: Path, *, seed: int = 8) -> Path:
    """A Gemma 3 in bfloat16 with a vision tower whose feed-forward is not of whole blocks of 32."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, SiglipVisionConfig

    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=72, num_hidden_layers=2, num_attention_heads=2,
        image_size=56, patch_size=14, vision_use_head=False,
    )  # fmt: skip
    config = Gemma3Config(
        text_config=tiny_models.gemma3_text_config(), vision_config=vision, mm_tokens_per_image=4
    )
    _save(folder, Gemma3ForConditionalGeneration, config, seed, lambda _: None)
    tiny_models.write_tokenizer_model(folder)
    weights = load_file(folder / "model.safetensors")
    inner = "vision_tower.vision_model."  # as released; transformers 5 saves it without
    named = {n.replace("vision_tower.", inner) if inner not in n else n: w.to(torch.bfloat16)
             for n, w in weights.items()}  # fmt: skip
    save_file(named, folder / "model.safetensors", {"format": "pt"})
    (folder / "preprocessor_config.json").write_text(json.dumps(GEMMA3_PROCESSOR))
    return folder


TARGETS = {
    "gemma4": r".*((vision|audio)_tower.*\.linear|input_proj|output_proj|relative_k_proj"
    r"|embedding_projection|language_model.*\.[qv]_proj)",
    "gemma3": r".*(vision_tower.*(q_proj|fc2)|language_model.*\.[qv]_proj)",
}


@kept
def lora(folder: Path, base: Path, targets: str, *, seed: int = 1) -> Path:
    """A LoRA adapter of the towers' layers and of some of the text model's."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=targets)
    model = get_peft_model(_load(base), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.02)
    model.save_pretrained(folder)
    return folder


def merged(folder: Path, base: Path, adapter: Path) -> Path:
    """PEFT's own merge in float32, saved as a checkpoint with what the converter reads."""
    import shutil

    from peft import PeftModel

    PeftModel.from_pretrained(_load(base), adapter).merge_and_unload().save_pretrained(folder)
    for path in base.glob("*"):
        if path.suffix in (".json", ".model") and not (folder / path.name).exists():
            shutil.copy(path, folder)
    return folder


def _load(base: Path) -> Any:
    import torch
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)


def _save(folder: Path, model_class: Any, config: Any, seed: int, change: Any) -> None:
    import torch

    torch.manual_seed(seed)
    model = model_class(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
        change(model)
    model.to(torch.float32).eval().save_pretrained(folder)
    tiny_models.write_tokenizer(folder)
