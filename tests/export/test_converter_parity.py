"""Hyperparameters, vocabulary and tensor tables against llama.cpp's own converter."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pedsup_testing import tiny_models
from pedsup_testing.slowly import slow_but

from pedsup.gguf_file import ArrayValue, read_header
from pedsup_export import arch
from pedsup_export.gguf.header import header_bytes, lay_out
from pedsup_export.model import open_model
from pedsup_export.source.checkpoint import Checkpoint
from pedsup_export.tokenizer.files import load_tokenizer

Convert = Callable[[Path, str], Path]


def plain(value: object) -> object:
    return (value.element, value.values()) if isinstance(value, ArrayValue) else value


def ours(folder: Path, tmp_path: Path):
    """Our metadata and tensor table, written and read back as a header."""
    opened = open_model(folder, folder)
    model = opened.tensors
    entries = [*opened.hyper, *opened.vocabulary.entries]
    from pedsup.gguf_file.ggml_types import BY_NAME

    slots = lay_out((o.name, o.ggml_shape, BY_NAME["F32"]) for o in model.outputs)
    path = tmp_path / "ours.gguf"
    path.write_bytes(header_bytes(entries, slots))
    with path.open("ab") as file:
        file.truncate(path.stat().st_size + slots[-1].offset + slots[-1].n_bytes)
    return read_header(path), model


def check_same(folder: Path, oracle: Path, tmp_path: Path) -> None:
    mine, _ = ours(folder, tmp_path)
    theirs = read_header(oracle)
    keys = {k for k in theirs.metadata if not k.startswith("general.")}
    assert {k for k in mine.metadata if not k.startswith("general.")} == keys
    for key in keys:
        assert plain(mine.metadata[key]) == plain(theirs.metadata[key]), key
        assert mine.value_types[key] == theirs.value_types[key], key
    assert {t.name: t.shape for t in mine.tensors.values()} == {
        t.name: t.shape for t in theirs.tensors.values()
    }


@pytest.mark.parametrize(
    "kind",
    slow_but(
        ["e4b"],
        ["llama", "e4b", "medgemma", "e2b", "multimodal", "assistant", "gemma3", "qwen2", "qwen3"],
    ),
)
def test_every_field_and_tensor_equals_the_converter_s(
    kind: str, models: dict[str, Path], convert: Convert, tmp_path: Path
) -> None:
    check_same(models[kind], convert(models[kind], "f32"), tmp_path)


@pytest.mark.slow
def test_older_spelling_of_the_config_gives_the_same_file(
    models: dict[str, Path], convert: Convert, tmp_path: Path
) -> None:
    folder = tmp_path / "old"
    shutil.copytree(models["e2b"], folder)
    config = json.loads((folder / "config.json").read_text())
    overrides = config.pop("per_layer_config")
    config["global_head_dim"] = next(iter(overrides.values()))["head_dim"]
    config["num_global_key_value_heads"] = None
    (folder / "config.json").write_text(json.dumps(config))
    check_same(folder, convert(models["e2b"], "f32"), tmp_path)
    check_same(folder, convert(folder, "f32"), tmp_path)


@pytest.mark.slow
def test_gemma_3_in_the_spelling_of_transformers_4(
    models: dict[str, Path], convert: Convert, tmp_path: Path
) -> None:
    """A multimodal folder as transformers 4 saved it: `language_model.model.layers...`."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "old"
    shutil.copytree(models["medgemma"], folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["text_config"] = tiny_models.gemma3_older_config(config["text_config"])
    path.write_text(json.dumps(config))
    renamed = {
        name.replace("model.language_model.", "language_model.model.")
        .replace("model.vision_tower.", "vision_tower.")
        .replace("model.multi_modal_projector.", "multi_modal_projector."): values
        for name, values in load_file(folder / "model.safetensors").items()
    }
    assert any(name.startswith("language_model.model.layers.") for name in renamed)
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    check_same(folder, convert(models["medgemma"], "f32"), tmp_path)
    check_same(folder, convert(folder, "f32"), tmp_path)


def test_layer_keys_with_a_leading_zero(models: dict[str, Path], tmp_path: Path) -> None:
    config = json.loads((models["e4b"] / "config.json").read_text())
    padded = {f"{int(k):02d}": v for k, v in config["per_layer_config"].items()}
    gemma4 = arch.find(config, "")
    assert gemma4.metadata({**config, "per_layer_config": padded}) == gemma4.metadata(config)


def test_towers_are_listed_as_dropped(models: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(models["multimodal"])
    _, model = ours(models["multimodal"], tmp_path)
    used = {o.source for o in model.outputs if o.source}
    dropped = {d.source for d in model.dropped}
    assert used | dropped == set(checkpoint.tensors)
    assert not used & dropped
    assert all("tower" in d or "embed_" in d for d in dropped)


@pytest.mark.slow
def test_the_real_smollm2_tokenizer(smollm2: Path, convert: Convert, tmp_path: Path) -> None:
    """The byte-level path: SmolLM2's own vocabulary, rebuilt by transformers from its GGUF."""
    from pedsup_testing import tiny_models
    from transformers import AutoTokenizer

    folder = tiny_models.llama(tmp_path / "tiny", vocab_size=49152, tie_word_embeddings=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    tokenizer = AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)
    tokenizer.save_pretrained(folder)
    check_same(folder, convert(folder, "f32"), tmp_path)


def test_a_template_s_control_tokens_stay_control_tokens(
    models: dict[str, Path], tmp_path: Path
) -> None:
    """tokenizer_config.json may forget to name `<|turn>`; tokenizer.json marks it as special."""
    folder = tmp_path / "forgetful"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(models["e4b"] / name, folder / name)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["extra_special_tokens"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    gemma4 = arch.find({"architectures": ["Gemma4ForCausalLM"]}, "")
    complete = gemma4.vocabulary(load_tokenizer(models["e4b"]), 768)
    assert gemma4.vocabulary(load_tokenizer(folder), 768) == complete
    types = complete.value("ggml.token_type")
    assert types[105] == types[106] == 3
    assert types[100] == types[101] == 4
