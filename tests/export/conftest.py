"""Made models and the official pipeline as the oracle, each made once per session."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
from pedsup_testing import tiny_models
from pedsup_testing.converter import Converter

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


class Made(dict[str, Path]):
    """Folders by kind, each made when it is first asked for."""

    def __init__(self, makers: dict[str, Callable[[Path], Path]], root: Path) -> None:
        self._makers, self._root = makers, root

    def __missing__(self, kind: str) -> Path:
        self[kind] = self._makers[kind](self._root / kind)
        return self[kind]


@pytest.fixture(scope="session")
def models(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Path]:
    """Tiny random checkpoints by kind."""

    def qwen(folder: Path, version: int) -> Path:
        source: Path = request.getfixturevalue("llama_cpp_source")
        vocabulary = source / "models" / "ggml-vocab-qwen2.gguf"
        return tiny_models.qwen(folder, vocabulary, version=version)

    makers: dict[str, Callable[[Path], Path]] = {
        "llama": tiny_models.llama,
        "e4b": tiny_models.gemma4,
        "e2b": partial(tiny_models.gemma4, shape="e2b"),
        "multimodal": tiny_models.gemma4_multimodal,
        "assistant": tiny_models.gemma4_assistant,
        "gemma3": tiny_models.gemma3,
        "medgemma": tiny_models.gemma3_multimodal,
        "qwen2": partial(qwen, version=2),
        "qwen3": partial(qwen, version=3),
    }
    return Made(makers, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def adapters(
    models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Path]:
    """A random LoRA adapter (both halves non-zero) on all linear modules of each text model."""
    kinds = ("llama", "e4b", "e2b", "gemma3", "qwen2", "qwen3")
    makers = {k: lambda folder, k=k: tiny_models.lora(folder, models[k]) for k in kinds}
    return Made(makers, tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="session")
def convert(converter: Converter, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """llama.cpp's own converter: (checkpoint folder, outtype, more options) -> GGUF."""
    root = tmp_path_factory.mktemp("converted")
    made: dict[tuple[object, ...], Path] = {}

    def run(folder: Path, outtype: str, *options: str) -> Path:
        key = (folder, outtype, *options)
        if key not in made:
            out = root / f"{len(made)}-{folder.name}-{outtype}.gguf"
            made[key] = converter(folder, out, outtype, *options)
        return made[key]

    return run


@pytest.fixture(scope="session")
def merged(
    models: dict[str, Path], adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """PEFT's own merge in float32, saved as a checkpoint, by kind of model."""
    root = tmp_path_factory.mktemp("merged")

    def run(kind: str) -> Path:
        out = root / kind
        if not out.exists():
            import shutil

            import torch
            from peft import PeftModel
            from transformers import AutoModelForCausalLM

            base = AutoModelForCausalLM.from_pretrained(models[kind], dtype=torch.float32)
            model = PeftModel.from_pretrained(base, adapters[kind]).merge_and_unload()
            model.save_pretrained(out)
            for name in TOKENIZER_FILES:
                if (models[kind] / name).exists():
                    shutil.copy(models[kind] / name, out / name)
        return out

    return run
