"""Gemma 3, Qwen2 and Qwen3: spellings of config.json and of names, refusals, and their adapters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pedsup_testing import tiny_models

from pedsup.errors import BadFileError, MismatchError, UnsupportedError
from pedsup_export import arch
from pedsup_export.model import open_model
from pedsup_export.plan.planner import make_plan
from pedsup_export.plan.request import ExportRequest
from pedsup_export.source.hub import ModelRef

Config = dict[str, Any]
QWEN: Config = {
    "architectures": ["Qwen2ForCausalLM"], "hidden_size": 256, "intermediate_size": 512,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 768,
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "hidden_act": "silu",
}  # fmt: skip


def metadata(config: Config) -> dict[str, Any]:
    return {e.key: e.value for e in arch.find(config, "").metadata(config)}


def gemma3(**changes: Any) -> Config:
    config = tiny_models.gemma3_text_config().to_dict()
    return {**config, "architectures": ["Gemma3ForCausalLM"], **changes}


def test_the_older_spelling_means_the_same() -> None:
    linear = {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5}
    sliding = {"rope_type": "default", "rope_theta": 2e4}
    new = gemma3(rope_parameters={"full_attention": linear, "sliding_attention": sliding})
    assert metadata(tiny_models.gemma3_older_config(new)) == metadata(new)
    assert metadata(new)["gemma3.rope.scaling.factor"] == 8.0
    assert metadata(tiny_models.gemma3_older_config(gemma3())) == metadata(gemma3())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layer_types": ["full_attention"] * 7}, "another order"),
        ({"layer_types": None, "sliding_window_pattern": 2}, "another order"),
        ({"query_pre_attn_scalar": 64}, "query_pre_attn_scalar"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"attention_bias": True}, "biases"),
        ({"use_bidirectional_attention": True}, "looks ahead"),
        ({"hidden_activation": "silu"}, "activation"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "yarn"),
        ({"rope_parameters": None, "rope_scaling": {"rope_type": "dynamic"}}, "dynamic"),
    ],
)
def test_a_gemma_3_that_llama_cpp_would_compute_otherwise(changes: Config, said: str) -> None:
    with pytest.raises(UnsupportedError, match=said):
        metadata(gemma3(**changes))


def test_the_27b_s_attention_scale() -> None:
    """llama.cpp knows the 27B model by its 62 layers: 5376 / 32 heads."""
    sizes = {"num_hidden_layers": 62, "hidden_size": 5376, "num_attention_heads": 32,
             "num_key_value_heads": 16, "layer_types": None}  # fmt: skip
    assert metadata(gemma3(**sizes, query_pre_attn_scalar=168))["gemma3.block_count"] == 62
    with pytest.raises(UnsupportedError, match="query_pre_attn_scalar"):
        metadata(gemma3(**sizes, query_pre_attn_scalar=128))


@pytest.mark.parametrize(
    ("version", "changes", "said"),
    [
        (2, {"use_sliding_window": True}, "sliding-window"),
        (3, {"layer_types": ["full_attention", "sliding_attention"]}, "sliding-window"),
        (2, {"head_dim": 32}, "do not make up"),
        (3, {"attention_bias": True}, "biases"),
        (2, {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "yarn"),
        (3, {"hidden_act": "gelu"}, "activation"),
    ],
)
def test_a_qwen_that_llama_cpp_would_compute_otherwise(
    version: int, changes: Config, said: str
) -> None:
    config = {**QWEN, "architectures": [f"Qwen{version}ForCausalLM"]}
    assert metadata(config)[f"qwen{version}.block_count"] == 2
    with pytest.raises(UnsupportedError, match=said):
        metadata({**config, **changes})


def tensors(config: Config, shapes: dict[str, tuple[int, ...]]) -> arch.ModelTensors:
    return arch.find(config, "").tensors(config, shapes, 768)


def test_tensors_that_do_not_fit_are_named(models: Mapping[str, Path]) -> None:
    model = open_model(models["gemma3"], models["gemma3"])
    shapes = {name: source.shape for name, source in model.checkpoint.tensors.items()}
    name = "model.layers.3.self_attn.k_norm.weight"
    with pytest.raises(MismatchError, match=r"layers\.3\.self_attn\.k_norm"):
        tensors(gemma3(), {**shapes, name: (64,)})
    with pytest.raises(BadFileError, match="attn_k_norm"):
        tensors(gemma3(), {n: s for n, s in shapes.items() if n != name})
    with pytest.raises(UnsupportedError, match=r"q_proj\.bias"):
        tensors(gemma3(), {**shapes, "model.layers.0.self_attn.q_proj.bias": (512,)})


def test_an_adapter_on_the_tower_is_refused_and_then_left_out(
    models: Mapping[str, Path], tmp_path: Path
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    base = AutoModelForImageTextToText.from_pretrained(models["medgemma"], dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.02)
    model.save_pretrained(tmp_path / "adapter")
    request = ExportRequest(
        base=ModelRef(models["medgemma"], "medgemma"),
        adapter=ModelRef(tmp_path / "adapter", "adapter"),
        out=tmp_path / "m.gguf",
    )
    with pytest.raises(MismatchError, match="vision"):
        make_plan(request)
    plan, inputs = make_plan(replace(request, allow_unused=True))
    assert {unused.kind for unused in plan.unused} == {"tower"}
    assert inputs.matches is not None
    assert len(inputs.matches.matched) == 7 * 7
