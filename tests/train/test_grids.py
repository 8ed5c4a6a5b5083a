"""Rounding in torch against ggml's own, and training through it against the exported file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pedsup_testing import tiny_models
from pedsup_testing.lazy import Lazy

from pedsup.errors import UnsupportedError, UsageError
from pedsup.gguf_file.ggml_types import BY_NAME
from pedsup_export.kernels import ggml
from pedsup_export.plan.planner import make_plan as plan_export
from pedsup_export.plan.request import ExportRequest
from pedsup_export.source.hub import ModelRef
from pedsup_export.write.publish import execute
from pedsup_train.model import backends
from pedsup_train.model.grids import GRID_TYPES, GridType, fit, refuse_no_grid, snap
from pedsup_train.model.shipped_types import checkpoint_shapes, shipped_types
from pedsup_train.recipe.schema import Recipe, read_recipe
from pedsup_train.run.plan import make_plan
from pedsup_train.run.runner import run as train_adapter

torch = Lazy("torch")


WIDE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "global_head_dim": 128,
        "hidden_size_per_layer_input": 32}  # fmt: skip
"""Every K-quant applies, but to the per-layer projections: their rows are 32 weights long."""


def by_ggml(weights: Any, kind: str) -> Any:
    """float32 [n, m] packed and unpacked by ggml's own code."""
    packed = np.empty((len(weights), BY_NAME[kind].row_bytes(weights.shape[1])), np.uint8)
    ggml.quantize_into(weights, BY_NAME[kind], None, packed)
    found = np.empty_like(weights)
    ggml.dequantize_into(packed, BY_NAME[kind], found)
    return found


def weights(name: str) -> Any:
    rng = np.random.default_rng(5)
    normal = rng.standard_normal((32, 512)) * 0.02
    made = {
        "normal": normal,
        "heavy tails": rng.standard_t(2, (32, 512)) * 0.02,
        "one sign": np.abs(normal) + 0.01,
        "negative": -np.abs(normal),
        "coarse": np.round(normal * 100) / 100,
        "tiny": normal * 1e-5,
        "zeros": np.zeros((1, 256)),
        "flat": np.full((1, 256), 0.3),
        "zeros, normal, flat": np.concatenate([np.zeros((1, 256)), normal[:1, :256],
                                               np.full((1, 256), -0.7)]),
    }  # fmt: skip
    return made[name].astype(np.float32)


@pytest.mark.parametrize("kind", GRID_TYPES)
@pytest.mark.parametrize(
    "name",
    ["normal", "heavy tails", "one sign", "negative", "coarse", "tiny", "zeros", "flat",
     "zeros, normal, flat"],
)  # fmt: skip
def test_the_rounding_is_ggml_s(name: str, kind: GridType) -> None:
    rows = weights(name)
    tensor = torch.from_numpy(rows)
    found = snap(tensor, fit(tensor, kind)).numpy()
    np.testing.assert_array_equal(found, by_ggml(rows, kind))


@pytest.mark.parametrize("kind", GRID_TYPES)
def test_weights_that_moved_round_to_the_grid_they_had(kind: GridType) -> None:
    """Between two fits: each value is on the old grid, and it is the nearest that the grid has."""
    old = torch.from_numpy(weights("normal"))
    grid = fit(old, kind)
    moved = old * 1.05 + 0.002
    found = snap(moved, grid)
    assert torch.equal(snap(found, grid), found)
    low, high = {"Q4_0": (-8, 7), "Q5_0": (-16, 15), "Q8_0": (-127, 127), "Q4_K": (0, 15),
                 "Q6_K": (-32, 31)}[kind]  # fmt: skip
    levels = torch.arange(low, high + 1, dtype=torch.float64)
    offset = 0.0 if grid.offset is None else grid.offset.double()
    blocks = moved.reshape(len(grid.scale), -1).double()
    table = (grid.scale.double() * levels - offset)[:, None]
    nearest = (blocks[:, :, None] - table).abs().amin(-1)
    error = (blocks - found.reshape(blocks.shape).double()).abs()
    # The scale is stored in half precision, by whose error a weight near a border may go over it.
    assert (error <= nearest + 2e-3 * blocks.abs().amax() + 1e-9).all()


def test_types_without_a_grid_are_refused() -> None:
    assert refuse_no_grid("Q4_K", 512, "x") == "Q4_K"
    with pytest.raises(UnsupportedError, match="rows of 96 weights cannot be Q4_K"):
        refuse_no_grid("Q4_K", 96, "x")
    with pytest.raises(UnsupportedError, match="no grid for the tensor type IQ4_XS"):
        refuse_no_grid("IQ4_XS", 256, "x")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.quantization=nf4", "model.quantization"),
        ("lora.dropout=0.05", "lora.dropout"),
        ("model.backend=unsloth", "model.backend"),
        ("train.save_every=7", "train.save_every"),
        ("train.quantize=Q5_K_M", "one of: none, Q4_0, Q4_K_M"),
    ],
)
def test_recipes_that_contradict_a_grid_are_refused(setting: str, message: str) -> None:
    sets = ["lora.dropout=0.0", "train.save_every=5", "train.quantize=Q4_0", setting]
    with pytest.raises(UsageError) as error:
        read_recipe("demo", sets)
    assert message in str(error.value)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.gemma4(tmp_path_factory.mktemp("models") / "gemma4", **WIDE)


def planned_types(base: Path, quant: str) -> dict[str, str]:
    request = ExportRequest(ModelRef(base, "base"), base.parent / "x.gguf", quant=quant)
    return {t.slot.name: t.slot.type.name for t in plan_export(request)[0].tensors}


@pytest.mark.parametrize("quant", ["Q4_0", "Q4_K_M"])
@pytest.mark.parametrize("dead", [False, True], ids=["", "dead keys and values"])
def test_the_types_are_the_exporter_s(gemma: Path, tmp_path: Path, quant: str, dead: bool) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig

    base = gemma
    if dead:
        base = tmp_path / "dead"
        base.mkdir()
        for file in gemma.iterdir():
            (base / file.name).write_bytes(file.read_bytes())
        tensors = load_file(base / "model.safetensors")
        for layer in range(4, 8):
            for part in "kv":
                name = f"model.layers.{layer}.self_attn.{part}_proj.weight"
                shape = tensors[f"model.layers.{layer - 4}.self_attn.{part}_proj.weight"].shape
                tensors.setdefault(name, torch.ones(shape, dtype=torch.bfloat16))
        save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    wanted = planned_types(base, quant)
    found = shipped_types(AutoConfig.from_pretrained(base), checkpoint_shapes(base), quant)
    assert {"Q6_K"} < {*found.values()}
    shared = found.keys() & wanted.keys()
    # F32 stands for "kept", which the file may hold in 16 bit.
    kept = {"F32", "F16", "BF16"}
    assert [n for n in shared if found[n] != wanted[n] and not {found[n], wanted[n]} <= kept] == []
    packed = {name for name, kind in wanted.items() if kind not in kept}
    assert packed <= found.keys()


@pytest.mark.slow
@pytest.mark.parametrize("quant", ["Q4_0", "Q4_K_M"])
def test_training_evaluates_the_file_that_ships(gemma: Path, tmp_path: Path, quant: str) -> None:
    """The trained model's own logits, rounded in torch, against those of a model made of the
    exported file's weights: the same to float32's rounding. An ordinary run's differ by the
    rounding of the export."""
    result = train_adapter(make_plan(recipe(gemma, tmp_path, quant), tmp_path / "adapter"))
    out = tmp_path / "out.gguf"
    execute(
        *plan_export(
            ExportRequest(
                ModelRef(gemma, "base"), out, adapter=ModelRef(tmp_path / "adapter", "adapter"),
                quant=quant,
            )
        )
    )  # fmt: skip
    ids = torch.tensor([[2, 105, 300, 400, 500, 301, 402]])
    shipped = weights_of_the_file(gemma, out)
    with torch.no_grad():
        wanted = shipped(input_ids=ids).logits
        own = trained_again(result.plan.recipe, tmp_path / "adapter")(input_ids=ids).logits
        plain = recipe(gemma, tmp_path, "none")
        unrounded = trained_again(plain, tmp_path / "adapter")(input_ids=ids).logits
    scale = float(wanted.std())
    assert float((own - wanted).abs().max()) < 1e-3 * scale
    assert float((unrounded - wanted).abs().max()) > 3e-2 * scale
    assert result.outcome.history[-1]["eval_loss"] < result.outcome.history[0]["eval_loss"]


def recipe(base: Path, tmp_path: Path, quant: str) -> Recipe:
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"question": f"{kind} {word}?", "answer": "A professional reviews every answer.",
         "lang": "en", "id": f"{kind}{word}"}
        for word in ("fever", "cough", "tos", "peso", "weight", "vaccines")
        for kind in ("child", "signs")
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_recipe(
        "demo",
        [
            f"model.base={json.dumps(str(base))}",
            f"data.sources=[{{format='pairs', path={json.dumps(str(path))}}}]",
            "data.eval_examples=4", "data.max_length=96", "train.max_steps=4",
            "train.eval_every=2", "train.save_every=2", "train.quantize_every=2",
            "train.learning_rate=0.02", "lora.r=4", "lora.alpha=8", "lora.dropout=0.0",
            f"train.quantize={quant}",
        ],
    )  # fmt: skip


def trained_again(settings: Recipe, adapter: Path) -> Any:
    """The trained model, loaded as training loads it."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    loaded = backends.load(settings, backends.choose_runtime(settings))
    set_peft_model_state_dict(loaded.model, load_file(adapter / "adapter_model.safetensors"))
    if loaded.grids is not None:
        loaded.grids.refit()
    return loaded.model.eval()


def weights_of_the_file(base: Path, gguf: Path) -> Any:
    """The base's model with every matrix as ggml unpacks it from the file."""
    from transformers import AutoModelForCausalLM

    from pedsup.gguf_file import read_header
    from pedsup_train.model.shipped_types import gguf_name

    header = read_header(gguf)
    data = np.memmap(gguf, np.uint8, mode="r")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    replaced = 0
    for name, parameter in model.named_parameters():
        tensor = header.tensors.get(gguf_name(name) or "")
        if tensor is None or tensor.type.block_size == 1:
            continue
        start = header.data_offset + tensor.offset
        packed = np.array(data[start : start + tensor.n_bytes]).reshape(tensor.shape[1], -1)
        values = np.empty(tensor.shape[::-1], np.float32)
        ggml.dequantize_into(packed, tensor.type, values)
        parameter.data.copy_(torch.from_numpy(values))
        replaced += 1
    assert replaced > 50
    return model.eval()
