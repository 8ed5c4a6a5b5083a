"""The distance of two bases against torch in float64."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pedsup_testing.lazy import Lazy

from pedsup_export.prove import compare_bases as module
from pedsup_export.prove.compare_bases import Difference, compare_bases
from pedsup_export.source.checkpoint import Checkpoint

torch = Lazy("torch")
save_file = Lazy("safetensors.torch", name="save_file")

bnb = Lazy("bitsandbytes.functional", reason="pip install 'pedsup[train]'")


def checkpoint(folder: Path, tensors: dict[str, torch.Tensor]) -> Checkpoint:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return Checkpoint.open(folder)


def expected(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> Difference:
    a = torch.cat([p[0].double().flatten() for p in pairs])
    b = torch.cat([p[1].double().flatten() for p in pairs])
    return Difference(
        float((a - b).norm() / a.norm()),
        float((a - b).abs().max()),
        float(torch.nn.functional.cosine_similarity(a, b, dim=0)),
        a.numel(),
    )


def close(ours: Difference, oracle: Difference) -> None:
    assert ours.n == oracle.n
    assert ours.max_abs == oracle.max_abs
    assert ours.relative == pytest.approx(oracle.relative, rel=1e-9)
    assert ours.cosine == pytest.approx(oracle.cosine, rel=1e-12)


@pytest.fixture
def bases(tmp_path: Path) -> tuple[Checkpoint, Checkpoint, dict[str, torch.Tensor]]:
    """A 16-bit base, its 4-bit copy under other prefixes, and the dequantized weights."""
    torch.manual_seed(0)
    sixteen = {
        "model.layers.0.q.weight": torch.randn(300, 192).bfloat16(),
        "model.layers.0.o.weight": (torch.randn(64, 1024) * 0.01).bfloat16(),
        "model.norm.weight": torch.randn(64).bfloat16(),
        "model.only.weight": torch.ones(3),
        "model.shape.weight": torch.ones(3),
        "model.ids": torch.arange(3),
    }
    four: dict[str, torch.Tensor] = {
        "model.language_model.norm.weight": sixteen["model.norm.weight"],
        "model.language_model.shape.weight": torch.ones(4),
        "model.vision_tower.q.weight": torch.ones(2),
        "model.ids": torch.arange(3),
    }
    plain = {"model.norm.weight": sixteen["model.norm.weight"]}
    for name in ("model.layers.0.q.weight", "model.layers.0.o.weight"):
        data, state = bnb.quantize_4bit(sixteen[name], compress_statistics=True, quant_type="nf4")
        new = name.replace("model.", "model.language_model.", 1)
        four[new] = data
        four |= {f"{new}.{k}": v for k, v in state.as_dict(packed=True).items()}
        plain[name] = bnb.dequantize_4bit(data, state)
    return checkpoint(tmp_path / "16", sixteen), checkpoint(tmp_path / "4", four), plain


@pytest.mark.parametrize("block", [1 << 22, 1 << 12])
def test_figures_are_torchs(
    bases: tuple[Checkpoint, Checkpoint, dict[str, torch.Tensor]],
    block: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    sixteen, four, plain = bases
    result = compare_bases(sixteen, four)
    original = {
        name: torch.from_numpy(source.rows(0, source.shape[0]))
        for name, source in sixteen.tensors.items()
        if name in plain
    }
    assert {t.name for t in result.tensors} == set(plain)
    for tensor in result.tensors:
        if tensor.name == "model.norm.weight":
            assert tensor.difference == Difference(0.0, 0.0, pytest.approx(1.0), 64)
        else:
            assert tensor.other_dtype == "NF4"
            close(tensor.difference, expected([(original[tensor.name], plain[tensor.name])]))
            assert 0.05 < tensor.difference.relative < 0.15
    close(result.total, expected([(original[n], plain[n]) for n in plain]))
    close(result.quantized, expected([(original[n], plain[n]) for n in plain if "layers" in n]))
    assert result.only_in_reference == ("model.only.weight",)
    assert result.only_in_other == ("model.vision_tower.q.weight",)
    assert {name for name, _ in result.not_compared} == {"model.shape.weight", "model.ids"}


def test_table_and_json(
    bases: tuple[Checkpoint, Checkpoint, dict[str, torch.Tensor]],
) -> None:
    result = compare_bases(bases[0], bases[1])
    lines = result.table().splitlines()
    assert lines[0].split() == ["tensor", "stored", "relative", "max", "|a-b|", "cosine"]
    assert "BF16 / NF4" in lines[1]
    assert any(line.startswith("all tensors, together") for line in lines)
    assert "only in the reference: model.only.weight" in lines
    value = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert value["total"]["relative"] == result.total.relative
    assert value["tensors"][0]["shape"] == list(result.tensors[0].shape)


def test_a_zero_reference_and_equal_bases(tmp_path: Path) -> None:
    zero = checkpoint(tmp_path / "zero", {"w": torch.zeros(4), "v": torch.zeros(2)})
    one = checkpoint(tmp_path / "one", {"w": torch.ones(4), "v": torch.zeros(2)})
    result = compare_bases(zero, one)
    figures = {t.name: t.difference for t in result.tensors}
    assert figures["w"].relative == np.inf
    assert figures["v"] == Difference(0.0, 0.0, 1.0, 2)
    assert result.as_dict()["total"]["relative"] is None
    assert compare_bases(one, one).total.relative == 0
