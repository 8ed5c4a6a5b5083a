"""Made models and the official pipeline as the oracle, each made once per session."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pedsup_testing import tiny_models

MODELS = ("llama", "e4b", "e2b", "multimodal")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny random checkpoints by kind."""
    root = tmp_path_factory.mktemp("models")
    return {
        "llama": tiny_models.llama(root / "llama"),
        "e4b": tiny_models.gemma4(root / "e4b"),
        "e2b": tiny_models.gemma4(root / "e2b", shape="e2b"),
        "multimodal": tiny_models.gemma4_multimodal(root / "multimodal"),
        "assistant": tiny_models.gemma4_assistant(root / "assistant"),
    }


@pytest.fixture(scope="session")
def adapters(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random LoRA adapter (both halves non-zero) on all linear modules of each text model."""
    root = tmp_path_factory.mktemp("adapters")
    return {k: tiny_models.lora(root / k, models[k]) for k in ("llama", "e4b", "e2b")}


@pytest.fixture(scope="session")
def convert(
    llama_cpp_source: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path, str], Path]:
    """llama.cpp's own converter: (checkpoint folder, outtype) -> GGUF."""
    root = tmp_path_factory.mktemp("converted")
    made: dict[tuple[Path, str], Path] = {}

    def run(folder: Path, outtype: str) -> Path:
        key = (folder, outtype)
        if key not in made:
            out = root / f"{len(made)}-{folder.name}-{outtype}.gguf"
            subprocess.run(
                [sys.executable, llama_cpp_source / "convert_hf_to_gguf.py", folder,
                 "--outtype", outtype, "--outfile", out],
                check=True,
                capture_output=True,
                env={k: v for k, v in os.environ.items() if k != "NO_LOCAL_GGUF"},
            )  # fmt: skip
            made[key] = out
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
            for name in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(models[kind] / name, out / name)
        return out

    return run
