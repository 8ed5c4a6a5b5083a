"""Checkpoints as they are released: dead projections, towers, 4-bit bases, sharded files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pedsup_testing import oracle
from safetensors.numpy import load_file, save_file

from pedsup.errors import MismatchError
from pedsup.files.records import record
from pedsup.files.source import Source
from pedsup.gguf_file import read_header
from pedsup.trust.manifest import QualityFacts
from pedsup_export.cli.request import choose_merge_base
from pedsup_export.plan.planner import make_plan
from pedsup_export.plan.request import ExportRequest
from pedsup_export.prove.quality_gate import gate_text
from pedsup_export.source.hub import ModelRef
from pedsup_export.write.publish import execute

Convert = Callable[[Path, str], Path]


def request(base: Path, out: Path, adapter: Path | None = None, **options: object) -> ExportRequest:
    return ExportRequest(
        base=ModelRef(base, base.name),
        adapter=ModelRef(adapter, adapter.name) if adapter else None,
        out=out,
        **options,  # type: ignore[arg-type]
    )


def tensors(path: Path) -> dict[str, tuple[str, bytes]]:
    header, data = read_header(path), path.read_bytes()
    start = header.data_offset
    return {
        t.name: (t.type.name, data[start + t.offset : start + t.offset + t.n_bytes])
        for t in header.tensors.values()
    }


@pytest.fixture
def with_dead_projections(models: dict[str, Path], tmp_path: Path) -> Path:
    """The E4B-shaped model with K and V in its KV-shared layers, as Google's checkpoint has."""
    folder = Path(shutil.copytree(models["e4b"], tmp_path / "released"))
    weights = load_file(folder / "model.safetensors")
    rng = np.random.default_rng(5)
    for layer in range(4, 8):
        like = 3 if layer == 7 else 0
        for part in ("k_proj", "v_proj", "k_norm"):
            name = f"model.layers.{like}.self_attn.{part}.weight"
            weights[name.replace(f".{like}.", f".{layer}.")] = rng.normal(
                0, 0.02, weights[name].shape
            ).astype(np.float32)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.slow  # the next tests export this base quickly, without the oracle
def test_dead_projections_are_left_out_and_the_rest_is_llama_cpp_s(
    with_dead_projections: Path, convert: Convert, tmp_path: Path
) -> None:
    """llama.cpp's mixture counts them, so the types of the others are chosen as if they stayed."""
    plan, inputs = make_plan(request(with_dead_projections, tmp_path / "m.gguf"))
    assert sum(d.reason.startswith("dead") for d in plan.dropped) == 12
    execute(plan, inputs)
    theirs = oracle.quantize(convert(with_dead_projections, "f32"), tmp_path / "theirs.gguf", 15)
    mine, wanted = tensors(tmp_path / "m.gguf"), tensors(theirs)
    assert wanted.keys() - mine.keys() == {
        f"blk.{i}.attn_{part}.weight" for i in range(4, 8) for part in ("k", "v", "k_norm")
    }
    assert mine == {name: wanted[name] for name in mine}
    # llama.cpp runs both files alike.
    tokens = list(range(110, 150))
    assert np.array_equal(oracle.logits(tmp_path / "m.gguf", tokens), oracle.logits(theirs, tokens))


@pytest.fixture
def adapter_on_dead(adapters: dict[str, Path], tmp_path: Path) -> Path:
    """An adapter with a non-zero change of a dead K projection and one of a vision tower."""
    folder = Path(shutil.copytree(adapters["e4b"], tmp_path / "dead-adapter"))
    weights = load_file(folder / "adapter_model.safetensors")
    prefix = "base_model.model.model."
    rng = np.random.default_rng(5)
    for module, rows, columns in (
        ("layers.5.self_attn.k_proj", 128, 256),
        ("vision_tower.encoder.layers.0.self_attn.q_proj.linear", 32, 32),
    ):
        a, b = rng.normal(size=(16, columns)), rng.normal(size=(rows, 16))
        weights[f"{prefix}{module}.lora_A.weight"] = a.astype(np.float32)
        weights[f"{prefix}{module}.lora_B.weight"] = b.astype(np.float32)
    save_file(weights, folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["target_modules"] = [*config["target_modules"], "k_proj", "linear"]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_deltas_that_nothing_takes_are_refused_with_their_norms(
    models: dict[str, Path], with_dead_projections: Path, adapter_on_dead: Path, tmp_path: Path
) -> None:
    for base in (models["e4b"], with_dead_projections):
        with pytest.raises(MismatchError) as caught:
            make_plan(request(base, tmp_path / "m.gguf", adapter_on_dead))
        message = str(caught.value)
        assert "2 deltas of the adapter have no tensor" in message
        lines = [line.strip() for line in message.splitlines()]
        assert any("layers.5.self_attn.k_proj (norm " in line[:80] for line in lines)
        assert "\\n" not in message
        assert "vision or audio tower" in message
        assert "wrong forward pass" in message
        assert "--allow-unused" in message


def test_allow_unused_exports_and_records_them(
    models: dict[str, Path], adapters: dict[str, Path], adapter_on_dead: Path, tmp_path: Path
) -> None:
    plan, inputs = make_plan(
        request(models["e4b"], tmp_path / "m.gguf", adapter_on_dead, allow_unused=True)
    )
    assert {u.kind for u in plan.unused} == {"dead_kv", "tower"}
    assert any("wrong forward pass" in w for w in plan.warnings)
    execute(plan, inputs)
    manifest = json.loads((tmp_path / "m.gguf.manifest.json").read_text())
    assert len(manifest["core"]["adapter"]["unused_deltas"]) == 2
    execute(*make_plan(request(models["e4b"], tmp_path / "clean.gguf", adapters["e4b"])))
    assert tensors(tmp_path / "m.gguf") == tensors(tmp_path / "clean.gguf")


def test_an_adapter_of_the_multimodal_model_on_the_text_model_and_back(
    models: dict[str, Path], adapters: dict[str, Path], tmp_path: Path
) -> None:
    """`model.language_model.layers` and `model.layers` are one model in two spellings."""
    weights = load_file(adapters["e4b"] / "adapter_model.safetensors")
    renamed = {n.replace("model.layers.", "model.language_model.layers."): w
               for n, w in weights.items()}  # fmt: skip
    folder = Path(shutil.copytree(adapters["e4b"], tmp_path / "renamed"))
    save_file(renamed, folder / "adapter_model.safetensors")
    for out, adapter in (("a.gguf", adapters["e4b"]), ("b.gguf", folder)):
        execute(*make_plan(request(models["e4b"], tmp_path / out, adapter)))
    assert tensors(tmp_path / "a.gguf") == tensors(tmp_path / "b.gguf")
    plan, _ = make_plan(request(models["multimodal"], tmp_path / "c.gguf", adapters["e4b"]))
    assert sum(t.adapted for t in plan.tensors) == len(weights) // 2


def test_shards_give_the_same_file(models: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    sharded = tmp_path / "sharded"
    model = AutoModelForCausalLM.from_pretrained(models["e2b"])
    model.save_pretrained(sharded, max_shard_size="4MB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(models["e2b"] / name, sharded / name)
    assert len(list(sharded.glob("*.safetensors"))) > 3
    execute(*make_plan(request(models["e2b"], tmp_path / "a.gguf")))
    execute(*make_plan(request(sharded, tmp_path / "b.gguf")))
    assert tensors(tmp_path / "a.gguf") == tensors(tmp_path / "b.gguf")


@pytest.fixture
def four_bit(models: dict[str, Path], tmp_path: Path) -> Path:
    """The llama model as bitsandbytes saves it: NF4 with double quantization."""
    pytest.importorskip("bitsandbytes", reason="pip install 'pedsup[train]'")
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    folder = tmp_path / "four-bit"
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        models["llama"], quantization_config=quantization, dtype=torch.bfloat16, device_map="cpu"
    )
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(models["llama"] / name, folder / name)
    return folder


def test_a_4bit_base_gives_what_its_dequantized_copy_gives(
    models: dict[str, Path], adapters: dict[str, Path], four_bit: Path, tmp_path: Path
) -> None:
    """Oracle: bitsandbytes dequantizes, the result is exported as a 16-bit base."""
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(four_bit, device_map="cpu")
    weights = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if weight is None or name == "lm_head":
            continue
        state = getattr(weight, "quant_state", None)
        whole = weight if state is None else dequantize_4bit(weight.data, state)
        weights[f"{name}.weight"] = whole.detach().to(torch.float32).numpy()
    plain = Path(shutil.copytree(models["llama"], tmp_path / "dequantized"))
    save_file(weights, plain / "model.safetensors", {"format": "pt"})
    for out, base in (("a.gguf", four_bit), ("b.gguf", plain)):
        execute(*make_plan(request(base, tmp_path / out, adapters["llama"])))
    assert tensors(tmp_path / "a.gguf") == tensors(tmp_path / "b.gguf")


def test_both_bases_given_and_the_4bit_one_chosen(
    models: dict[str, Path], adapters: dict[str, Path], four_bit: Path, tmp_path: Path
) -> None:
    ref = ModelRef(four_bit, "four-bit")
    both = request(models["llama"], tmp_path / "a.gguf", adapters["llama"],
                   base_4bit=ref, merge_base="4bit")  # fmt: skip
    execute(*make_plan(both))
    execute(*make_plan(request(four_bit, tmp_path / "b.gguf", adapters["llama"])))
    execute(*make_plan(request(models["llama"], tmp_path / "c.gguf", adapters["llama"])))
    assert tensors(tmp_path / "a.gguf") == tensors(tmp_path / "b.gguf")
    assert tensors(tmp_path / "a.gguf") != tensors(tmp_path / "c.gguf")


def test_the_adapter_s_own_base_is_the_default_when_both_are_given(
    adapters: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(adapters["llama"], tmp_path / "adapter"))
    config = json.loads((folder / "adapter_config.json").read_text())
    four = ModelRef(tmp_path, "four-bit")
    for name, wanted in (("unsloth/gemma-4-e4b-it-unsloth-bnb-4bit", "4bit"), ("g/x", "16bit")):
        config["base_model_name_or_path"] = name
        (folder / "adapter_config.json").write_text(json.dumps(config))
        assert choose_merge_base(None, ModelRef(folder, "a"), four) == wanted
    assert choose_merge_base("16bit", ModelRef(folder, "a"), four) == "16bit"


@pytest.mark.slow  # tests/bench/test_gate.py runs the gate itself
def test_the_quality_gate_refuses_before_the_file_has_its_name(
    models: dict[str, Path], tmp_path: Path
) -> None:
    from pedsup_bench.gate.check import GateError

    reference, out = tmp_path / "reference.gguf", tmp_path / "m.gguf"
    execute(*make_plan(request(models["llama"], reference, quant="F32")))
    strict, loose = tmp_path / "strict.toml", tmp_path / "loose.toml"
    strict.write_text("[default]\nkld_mean = 1e-7\n")
    loose.write_text("[default]\nkld_mean = 0.5\n")
    gate = {"quant": "Q8_0", "gate_reference": reference}
    with pytest.raises(GateError, match="thresholds"):
        execute(*make_plan(request(models["llama"], out, gate_thresholds=strict, **gate)))
    assert not out.exists()
    execute(*make_plan(request(models["llama"], out, gate_thresholds=loose, **gate)))
    manifest = json.loads((tmp_path / "m.gguf.manifest.json").read_text())
    quality = manifest["core"]["quality"]
    (check,) = quality["checks"]
    assert check["figure"] == "kld_mean"
    assert 1e-7 < check["value"] < 0.5
    facts = record(QualityFacts, quality, Source("the manifest", out, only_known=False))
    assert gate_text(facts).startswith("passed against reference.gguf (kld_mean 0.")
