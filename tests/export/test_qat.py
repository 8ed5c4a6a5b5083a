"""Bases of quantization-aware training: recognised by their weights, kept exactly by Q4_0."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pedsup_testing import adapter_files, oracle, qat
from pedsup_testing.slowly import slow_but

from pedsup.gguf_file import read_header
from pedsup.gguf_file.ggml_types import BY_NAME
from pedsup_export.plan.planner import make_plan
from pedsup_export.plan.request import ExportRequest
from pedsup_export.prove.verify import verify
from pedsup_export.source.hub import ModelRef
from pedsup_export.types.quantize import (
    dequantize_rows,
    grid_share,
    quantize_on_grid,
    quantize_rows,
)
from pedsup_export.write.publish import execute

Convert = Callable[[Path, str], Path]
Q4_0 = BY_NAME["Q4_0"]
TOKENS = np.random.default_rng(5).integers(300, 700, 200).tolist()


def weights(n: int = 64, width: int = 1024, seed: int = 0) -> qat.Rows:
    return (np.random.default_rng(seed).standard_normal((n, width)) * 0.02).astype(np.float32)


def exact_share(rows: qat.Rows, packed: np.ndarray) -> float:
    """Blocks whose every weight, rounded to bfloat16, is the one that was given."""
    back = qat.bfloat16(dequantize_rows(packed, Q4_0, rows.shape[1]))
    return float((back == rows).reshape(-1, 32).all(1).mean())


def half(values: qat.Rows) -> qat.Rows:
    return values.astype(np.float16).astype(np.float32)


@pytest.mark.parametrize("scale", [qat.extremum, qat.root_mean_square])
@pytest.mark.parametrize(("store", "least"), [(qat.bfloat16, 1.0), (half, 0.99)])
def test_a_block_on_a_grid_is_reproduced_to_the_last_bit(
    scale: Callable[[qat.Rows], qat.Rows], store: Callable[[qat.Rows], qat.Rows], least: float
) -> None:
    """Scales of bfloat16 are found exactly; of a float16 one a neighbour may give the same weights
    but for a tie.
    """
    rows = qat.on_grid(weights(), scale, store)
    packed = quantize_on_grid(rows, "BF16", "x")
    assert grid_share(rows, "BF16") == 1.0
    assert exact_share(rows, packed) >= least
    # No weight is farther off than half a unit of bfloat16.
    error = np.abs(dequantize_rows(packed, Q4_0, rows.shape[1]) - rows)
    assert (error <= np.abs(rows) * 2.0**-8).all()


def test_ggml_does_not_find_such_a_grid() -> None:
    rows = qat.on_grid(weights(), qat.root_mean_square, qat.bfloat16)
    assert exact_share(rows, quantize_rows(rows, Q4_0)) < 0.1


def test_where_ggml_finds_the_grid_its_bytes_stay() -> None:
    rows = qat.on_grid(weights(), qat.extremum, qat.bfloat16)
    assert np.array_equal(quantize_on_grid(rows, "BF16", "x"), quantize_rows(rows, Q4_0))


def test_other_weights_are_on_no_grid() -> None:
    rows = qat.bfloat16(weights())
    assert grid_share(rows, "BF16") == 0
    assert grid_share(weights(), "F32") == 0
    assert np.array_equal(quantize_on_grid(rows, "BF16", "x"), quantize_rows(rows, Q4_0))
    # Q4_1 has an offset: its grid is another.
    kind = BY_NAME["Q4_1"]
    other = dequantize_rows(quantize_rows(weights(), kind), kind, 1024)
    assert grid_share(other, "F32") < 0.01


def test_one_weight_off_takes_its_block_off_the_grid() -> None:
    rows = qat.on_grid(weights(1, 64), qat.root_mean_square, qat.bfloat16)
    moved = rows.copy()
    moved[0, 5] = qat.bfloat16(np.float32([np.abs(rows).max() * 0.617]))[0]
    assert grid_share(moved, "BF16") == 0.5
    packed = quantize_on_grid(moved, "BF16", "x")
    assert np.array_equal(packed[:, :18], quantize_rows(moved, Q4_0)[:, :18])
    assert exact_share(moved[:, 32:], packed[:, 18:]) == 1


def test_zeros_and_weights_of_any_size() -> None:
    tiny = weights(8) * np.float32(1e-7)
    for rows in (np.zeros((2, 64), np.float32), qat.on_grid(tiny, qat.extremum, qat.bfloat16)):
        packed = quantize_on_grid(rows, "BF16", "x")
        back = dequantize_rows(packed, Q4_0, rows.shape[1])
        assert np.isfinite(back).all()
        assert np.abs(back - rows).max() <= np.abs(rows).max()


@pytest.fixture(scope="module")
def bases(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny checkpoints on a grid, with names that say nothing of it."""
    root = tmp_path_factory.mktemp("grid")
    return {kind: qat.base_on_grid(models[kind], root / kind) for kind in ("llama", "e4b")}


def request(base: Path, out: Path, **options: object) -> ExportRequest:
    made = ExportRequest(base=ModelRef(base, base.name), out=out, quant="Q4_0")
    return replace(made, **options)


@pytest.mark.parametrize("kind", slow_but(["e4b"], ["llama", "e4b"]))
def test_every_matrix_of_the_file_is_the_base_s(
    kind: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    plan, inputs = make_plan(request(bases[kind], tmp_path / "x.gguf"))
    assert plan.grid.is_qat
    out = execute(plan, inputs).path
    header, data = read_header(out), out.read_bytes()
    stored = load_file_float(bases[kind])
    for tensor in plan.tensors:
        if tensor.slot.name not in plan.exact:
            continue
        info = header.tensors[tensor.slot.name]
        at = header.data_offset + info.offset
        packed = np.frombuffer(data[at : at + info.n_bytes], np.uint8).reshape(info.shape[1], -1)
        rows = stored[str(tensor.origin.source)]
        if tensor.origin.head_rows:
            size = tensor.origin.head_rows
            rows = rows.reshape(-1, 2, size // 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)
        assert exact_share(np.ascontiguousarray(rows), packed.copy()) == 1, tensor.slot.name
    layers = [t for t in plan.tensors if t.slot.name.startswith("blk.") and len(t.slot.shape) == 2]
    assert set(plan.exact) >= {t.slot.name for t in layers}
    # The tables are those of Google's file.
    types = {name: t.type.name for name, t in header.tensors.items()}
    assert types["token_embd.weight"] == "Q6_K"
    if kind == "e4b":
        assert types["per_layer_token_embd.weight"] == "Q6_K"
        assert types["per_layer_model_proj.weight"] == "F16"


def load_file_float(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.torch import load_file as load

    return {n: t.float().numpy() for n, t in load(folder / "model.safetensors").items()}


@pytest.mark.slow  # the exact blocks are shown above
def test_it_is_twenty_times_nearer_to_the_base_than_llama_quantize(
    bases: dict[str, Path], convert: Convert, tmp_path: Path
) -> None:
    """KL of the file against the bfloat16 base, both run by llama.cpp; the same tables in both."""
    out = tmp_path / "mine.gguf"
    execute(*make_plan(request(bases["llama"], out)))
    whole = convert(bases["llama"], "bf16")
    peer = oracle.quantize(whole, tmp_path / "peer.gguf", 2)
    reference = oracle.logits(whole, TOKENS)
    mine, theirs = (oracle.mean_kl(reference, oracle.logits(f, TOKENS)) for f in (out, peer))
    print(f"KL {mine:.6f}, llama-quantize {theirs:.6f}, ratio {theirs / mine:.1f}")
    assert mine <= theirs / 20


@pytest.mark.slow
def test_the_weights_of_a_gemma_4_are_twenty_times_nearer(
    bases: dict[str, Path], convert: Convert, tmp_path: Path
) -> None:
    """The files' weights in transformers, tables left in bfloat16.

    The tables' Q6_K and llama.cpp's 8-bit activations are not the grid's doing, and random
    weights of this shape make more of them than trained ones: a Q8_0 file has a KL of 0.04.
    """
    base, tables = bases["e4b"], (("token_embd", "BF16"),)
    out = tmp_path / "mine.gguf"
    execute(*make_plan(request(base, out, tensor_types=tables)))
    peer = oracle.quantize(convert(base, "bf16"), tmp_path / "peer.gguf", 2, tables="BF16")
    reference = adapter_files.peft_logits(base, None, TOKENS)

    def kl(file: Path) -> float:
        same = adapter_files.dequantized(file, base, tmp_path / f"{file.stem}-weights")
        return oracle.mean_kl(reference, adapter_files.peft_logits(same, None, TOKENS))

    mine, theirs = kl(out), kl(peer)
    print(f"KL {mine:.6f}, llama-quantize {theirs:.6f}, ratio {theirs / mine:.1f}")
    assert mine <= theirs / 20


def test_a_usual_base_is_planned_as_before(models: dict[str, Path], tmp_path: Path) -> None:
    for kind in ("llama", "e4b"):
        plan, _ = make_plan(request(models[kind], tmp_path / "x.gguf"))
        assert not plan.grid.is_qat
        assert not plan.exact
        assert not any("grid" in w for w in plan.warnings)


def test_missing_dead_projections_and_a_name_prove_nothing(
    models: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "gemma-4-E4B-it-qat-q4_0-unquantized"
    shutil.copytree(models["e4b"], folder)
    assert not make_plan(request(folder, tmp_path / "x.gguf"))[0].grid.is_qat


def test_k_quants_of_such_a_base_are_warned_of(bases: dict[str, Path], tmp_path: Path) -> None:
    plan, _ = make_plan(request(bases["e4b"], tmp_path / "x.gguf", quant="Q4_K_M"))
    assert not plan.exact
    assert any("--quant Q4_0 keeps them exactly" in w for w in plan.warnings)
    for quant in ("Q8_0", "BF16"):
        plan, _ = make_plan(request(bases["e4b"], tmp_path / "x.gguf", quant=quant))
        assert not any("grid" in w for w in plan.warnings)


def test_a_merged_adapter_leaves_the_grid(
    bases: dict[str, Path], adapters: dict[str, Path], tmp_path: Path
) -> None:
    adapter = ModelRef(adapters["e4b"], "adapter")
    plan, inputs = make_plan(
        request(bases["e4b"], tmp_path / "x.gguf", adapter=adapter, allow_unused=True)
    )
    adapted = {t.slot.name for t in plan.tensors if t.adapted}
    assert adapted
    assert not adapted & set(plan.exact)
    assert any("pedsup-export adapter" in w for w in plan.warnings)
    execute(plan, inputs)


def test_the_file_is_proved_against_its_base(
    bases: dict[str, Path], adapters: dict[str, Path], models: dict[str, Path], tmp_path: Path
) -> None:
    """An adapter of a few modules: the others stay on the grid, and are made again."""
    from pedsup_testing import tiny_models

    lora = tiny_models.lora(tmp_path / "lora", models["llama"], target_modules=["q_proj"])
    adapter = ModelRef(lora, "lora")
    base = ModelRef(bases["llama"], "base")
    out = tmp_path / "x.gguf"
    plan, inputs = make_plan(request(bases["llama"], out, adapter=adapter))
    assert any("ffn_down" in name for name in plan.exact)
    execute(plan, inputs)
    assert verify(out, base=base, adapter=adapter).remade
    manifest = json.loads(out.with_name("x.gguf.manifest.json").read_text())
    assert manifest["core"]["recipe"]["exact"] == plan.exact


def test_a_table_on_the_grid_can_be_kept_exactly(models: dict[str, Path], tmp_path: Path) -> None:
    base = qat.base_on_grid(models["e4b"], tmp_path / "base", tables=True)
    plan, _ = make_plan(request(base, tmp_path / "x.gguf"))
    assert any("^token_embd.weight$=Q4_0" in w for w in plan.warnings)
    types = (("^token_embd.weight$", "Q4_0"), ("per_layer_token_embd", "Q4_0"))
    plan, _ = make_plan(request(base, tmp_path / "x.gguf", tensor_types=types))
    assert {"token_embd.weight", "per_layer_token_embd.weight"} <= set(plan.exact)
