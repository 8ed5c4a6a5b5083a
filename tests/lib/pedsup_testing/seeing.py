"""Tiny random models that see, as transformers saves them, and what it makes of a picture."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from pedsup.pictures.picture import Picture
from pedsup_testing import tiny_models, towers
from pedsup_testing.converter import Converter
from pedsup_testing.kept import kept

BEGIN, PLACE, END = 60, 61, 62
PATCH, MERGE = 4, 3
UNIT = PATCH * MERGE
"""Pixels on each side of what becomes one token."""
MARKS = {BEGIN: "<|image>", PLACE: "<|image|>", END: "<image|>"}


@kept
def gemma4(folder: Path, *, width: int, template: str, **text: Any) -> Path:
    """Write a tiny Gemma 4 with a vision tower and no audio.

    Args:
        width: of its embeddings. llama.cpp tells E2B by 1536: its pictures are read from left to
            right, those of the large models as a whole.
    """
    from transformers import (
        Gemma4Config,
        Gemma4ForConditionalGeneration,
        Gemma4VisionConfig,
    )

    vision = Gemma4VisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, patch_size=PATCH, initializer_range=0.2,
    )  # fmt: skip
    text_config = tiny_models.gemma4_text_config(
        hidden_size=width, num_hidden_layers=4, num_kv_shared_layers=2,
        layer_types=["sliding_attention", "full_attention"] * 2, **text,
    )  # fmt: skip
    config = Gemma4Config(
        text_config=text_config, vision_config=vision, audio_config=None,
        image_token_id=PLACE, boi_token_id=BEGIN, eoi_token_id=END,
    )  # fmt: skip
    tiny_models._save(folder, Gemma4ForConditionalGeneration, config, 0)
    tiny_models.write_tokenizer(folder, chat_template=template, more=MARKS)
    processor = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "patch_size": PATCH}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def convert(folder: Path, converter: Converter) -> tuple[Path, Path]:
    """llama.cpp's own converter: the model and its projector, in float32."""
    model, projector = folder / "tiny.gguf", folder / "mmproj-tiny.gguf"
    return converter(folder, model), converter(folder, projector, "f32", "--mmproj")


def pixels(columns: int, rows: int, seed: int = 0) -> np.ndarray:
    """A random picture of so many tokens: uint8 [height, width, 3]."""
    shape = rows * UNIT, columns * UNIT, 3
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(image: np.ndarray, orientation: int = 1) -> Picture:
    """A picture with exactly these pixels."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    data = file.getvalue()
    height, width, _ = image.shape
    digest = hashlib.sha256(data).hexdigest()
    return Picture(data, "image/png", width, height, digest, orientation)


@dataclass(frozen=True)
class Oracle:
    """A tiny Gemma 4 in transformers, float32."""

    model: Any

    KINDS: ClassVar = "mm_token_type_ids"
    """What the model calls the marks of the tokens that are a picture."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        import torch
        from transformers import AutoModelForImageTextToText

        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        return cls(model.eval())

    def embeddings(self, image: np.ndarray) -> np.ndarray:
        """What stands in the prompt for a picture: float32 [tokens, width]."""
        import torch

        with torch.no_grad():
            found = self.model.get_image_features(**self._seen(image)).pooler_output
        return torch.cat(list(found)).numpy()

    def logits(self, prompt: list[int], image: np.ndarray) -> np.ndarray:
        """Of the token after a prompt whose picture stands where ids are negative."""
        import torch

        kinds = torch.tensor([[int(t < 0) for t in prompt]])
        with torch.no_grad():
            out = self.model(
                input_ids=torch.tensor([[PLACE if t < 0 else t for t in prompt]]),
                **self._seen(image), **{self.KINDS: kinds},
            )  # fmt: skip
        return out.logits[0, -1].numpy()

    def _seen(self, image: np.ndarray) -> dict[str, Any]:
        values, positions = _patches(image)
        return {"pixel_values": values, "image_position_ids": positions}


def _patches(image: np.ndarray) -> tuple[Any, Any]:
    """Patches [1, n, 3 x area] in [0, 1], and their columns and rows, as Gemma 4's processor
    makes them of a picture that needs no resizing."""
    import torch

    height, width, _ = image.shape
    rows, columns = height // PATCH, width // PATCH
    cut = (image.astype(np.float32) / 255).reshape(rows, PATCH, columns, PATCH, 3)
    values = cut.transpose(0, 2, 1, 3, 4).reshape(rows * columns, -1)
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2)
    return torch.tensor(values)[None], torch.tensor(grid)[None]


GEMMA3_SIDE = 224
"""Pixels on each side of what the tiny Gemma 3 sees: 16 patches, of which 4 make a token's side."""


@kept
def gemma3(folder: Path) -> Path:
    """Write a tiny Gemma 3 with a vision tower, as MedGemma is.

    A picture is 16 tokens, each of as many patches as in the real one.
    """
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, SiglipVisionConfig

    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        image_size=GEMMA3_SIDE, patch_size=14, vision_use_head=False,
    )  # fmt: skip
    config = Gemma3Config(
        text_config=tiny_models.gemma3_text_config(sliding_window=32), vision_config=vision,
        mm_tokens_per_image=16, image_token_index=PLACE, boi_token_index=BEGIN,
        eoi_token_index=END, initializer_range=0.2,
    )  # fmt: skip

    def change(model: Any) -> None:
        for name, parameter in model.named_parameters():
            if ("vision_tower" in name or "multi_modal" in name) and "norm" not in name:
                parameter.normal_(0, 0.2)

    towers._save(folder, Gemma3ForConditionalGeneration, config, 0, change)
    marks = {BEGIN: "<start_of_image>", PLACE: "<image_soft_token>", END: "<end_of_image>"}
    tiny_models.write_tokenizer(folder, more=marks)
    tiny_models.write_tokenizer_model(folder)
    processor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "image_seq_length": 16}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


class Gemma3Oracle(Oracle):
    """A tiny Gemma 3 in transformers, float32."""

    KINDS = "token_type_ids"

    def _seen(self, image: np.ndarray) -> dict[str, Any]:
        return {"pixel_values": _planes(image)}


def _planes(image: np.ndarray) -> Any:
    """[1, 3, height, width] from -1 to 1, as Gemma 3's processor makes it of a picture that needs
    no resizing."""
    import torch

    return torch.tensor((image.astype(np.float32) / 255 - 0.5) / 0.5).permute(2, 0, 1)[None]
