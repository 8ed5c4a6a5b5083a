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
from pedsup_export.phone import gemma3_shapes
from pedsup_export.phone.command import models_for
from pedsup_export.phone.gemma3_shapes import GEMMA3_1B, GEMMA3_4B, GEMMA3_270M, Shape
from pedsup_export.phone.models import gemma3_model, planned_header, published_model
from pedsup_maintain.comparison import PAGE, page


@pytest.mark.parametrize("shape", [GEMMA3_4B, GEMMA3_1B, GEMMA3_270M])
def test_shapes_and_config_are_those_of_transformers(shape: Shape) -> None:
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    ours = gemma3_shapes.text_config(shape)
    config = Gemma3TextConfig(**ours)
    with torch.device("meta"):
        model = Gemma3ForCausalLM(config)
    names = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert names == gemma3_shapes.tensor_shapes(shape)
    theirs = config.to_dict()
    assert {key: theirs[key] for key in ours if key != "architectures"} == {
        key: value for key, value in ours.items() if key != "architectures"
    }


def google_s_own(shape: Shape) -> dict[str, Any]:
    """config.json of google/gemma-3-4b-it as it was released: most values are left out."""
    return {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {
            "hidden_size": shape.hidden,
            "intermediate_size": shape.feed_forward,
            "model_type": "gemma3_text",
            "num_hidden_layers": shape.n_layers,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": shape.sliding_window,
        },
    }


def test_the_released_configuration_means_the_same() -> None:
    released, ours = google_s_own(GEMMA3_4B), gemma3_shapes.text_config(GEMMA3_4B)
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
