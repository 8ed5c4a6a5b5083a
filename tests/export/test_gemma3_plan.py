"""Gemma 3 and MedGemma as phone models: their shapes against transformers, sizes against llama.cpp,
and the comparison page.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pedsup_testing import made_gguf, quantize_oracle

from pedsup.gguf_file.file_types import FILE_TYPES
from pedsup_export import arch
from pedsup_export.phone import published
from pedsup_export.phone.command import models_for
from pedsup_export.phone.models import gemma3_model, planned_header, published_model
from pedsup_maintain.comparison import PAGE, page


@pytest.mark.parametrize("name", ["Gemma 3 4B", "Gemma 3 1B", "Gemma 3 270M"])
def test_tensors_and_metadata_are_those_of_transformers(name: str) -> None:
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(**published.GEMMA3[name])
    with torch.device("meta"):
        model = Gemma3ForCausalLM(config)
    theirs = {**config.to_dict(), "architectures": ["Gemma3ForCausalLM"]}
    shapes = {key: tuple(p.shape) for key, p in model.named_parameters()}
    found, ours = arch.find(theirs, ""), gemma3_model(name)
    placed = found.tensors(theirs, shapes, config.vocab_size)
    assert {t.name: t.shape for t in ours.tensors.outputs} == {
        t.name: t.shape for t in placed.outputs
    }
    assert {e.key: e.value for e in ours.hyper} == {e.key: e.value for e in found.metadata(theirs)}


GOOGLE_S_OWN: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
}
"""config.json of google/gemma-3-4b-it as it was released: most values are left out."""


def test_the_released_configuration_means_the_same() -> None:
    released, ours = GOOGLE_S_OWN, published.GEMMA3["Gemma 3 4B"]
    metadata = arch.find(ours, "").metadata
    assert metadata(released) == metadata(ours)


@pytest.mark.parametrize("quant", ["Q4_K_M", "Q4_0", "Q8_0"])
def test_types_and_sizes_equal_llama_cpp_s_dry_run(quant: str, tmp_path: Path) -> None:
    made, source = made_gguf.gemma3_4b(), tmp_path / "m.gguf"
    made_gguf.write_sparse(source, made)
    header = planned_header(gemma3_model("MedGemma 1.5 4B"), FILE_TYPES[quant])
    theirs = quantize_oracle.chosen_types(source, FILE_TYPES[quant].number)
    assert {n: t.type.name for n, t in header.tensors.items()} == theirs
    assert {n: t.shape for n, t in header.tensors.items()} == dict(made.tensors)


@pytest.mark.parametrize(
    ("base", "name"),
    [
        ("google/medgemma-1.5-4b-it", "MedGemma 1.5 4B"),
        ("unsloth/medgemma-4b-it-unsloth-bnb-4bit", "MedGemma 4B"),
        ("google/gemma-3-1b-it", "Gemma 3 1B"),
        ("google/gemma-3-270m", "Gemma 3 270M"),
        ("google/gemma-4-E4B-it", "E4B"),
    ],
)
def test_a_hub_id_is_enough_to_plan_with(base: str, name: str) -> None:
    assert [model.name for model in models_for(base)] == [name]


@pytest.mark.parametrize("base", ["google/gemma-3-12b-it", "google/gemma-4-31B-it", "own/model"])
def test_a_shape_that_is_not_published_here(base: str) -> None:
    assert published_model(base) is None


@pytest.mark.slow
def test_the_comparison_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == page(), "run `make comparison`"
