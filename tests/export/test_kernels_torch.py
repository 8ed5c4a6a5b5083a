"""The torch path against ggml's bytes: on the CPU always, on CUDA where there is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pedsup.errors import UsageError
from pedsup.gguf_file.ggml_types import BY_NAME, GGMLType
from pedsup_export import ggml
from pedsup_export.kernels import dispatch, torch_path
from pedsup_export.kernels.torch_path import TorchKernel
from pedsup_export.quantize import quantize_rows

Rows = NDArray[np.float32]
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(
            not torch.cuda.is_available(), reason="needs a CUDA GPU and torch built for it"
        ),
    ),
]
FAST = {("Q4_K", True), ("Q6_K", False), ("Q8_0", False)}
"""The fast tests; test_quantize.py compares every type once, there through llama_model_quantize."""
KERNELS = [
    pytest.param(
        BY_NAME[name], weighted, id=f"{name}-{'imatrix' if weighted else 'plain'}",
        marks=[] if (name, weighted) in FAST else pytest.mark.slow,
    )
    for name in ("Q4_K", "Q5_K", "Q6_K", "Q3_K", "Q2_K", "Q4_0", "Q8_0")
    for weighted in (False, True)
    if not (name == "Q8_0" and weighted)
]  # fmt: skip
every_kernel = pytest.mark.parametrize(("kind", "weighted"), KERNELS)
on_every_device = pytest.mark.parametrize("device", DEVICES)


def assert_same(kind: GGMLType, rows: Rows, importance: Rows | None, device: str) -> None:
    shape = len(rows), kind.row_bytes(rows.shape[1])
    ours, theirs = np.full(shape, 0xAA, np.uint8), np.full(shape, 0x55, np.uint8)
    made = TorchKernel(kind, importance is not None, device)
    made.quantize_into(rows, kind, importance, ours)
    ggml.quantize_into(rows, kind, importance, theirs)
    wrong = np.flatnonzero((ours != theirs).any(axis=1))
    assert not wrong.size, f"rows {wrong[:10]}"


@on_every_device
@every_kernel
def test_nasty_rows(kind: GGMLType, weighted: bool, device: str) -> None:
    importance = dispatch.nasty_importance(768) if weighted else None
    assert_same(kind, dispatch.nasty_rows(), importance, device)


@on_every_device
@every_kernel
def test_noise_in_several_chunks(
    kind: GGMLType, weighted: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(torch_path.CHUNK, device, 40_000)
    rng = np.random.default_rng(8)
    size = 10.0 ** rng.uniform(-5, 2, (100, 1))
    rows = (rng.standard_t(3, (100, 1280)) * size).astype(np.float32)
    importance = (rng.standard_exponential(1280) ** 3).astype(np.float32) if weighted else None
    assert_same(kind, rows, importance, device)


@on_every_device
@every_kernel
def test_torch_leaves_the_same_few_blocks_to_ggml(
    kind: GGMLType, weighted: bool, device: str
) -> None:
    """Ordinary blocks are torch's own work, so the comparison is not of ggml with itself."""
    rows = np.random.default_rng(1).standard_normal((16, 512)).astype(np.float32)
    importance = torch.ones(512, device=device) if weighted else None
    packed, odd = torch_path.quantize(torch.tensor(rows, device=device), kind, importance)
    assert not odd.any()
    theirs = np.zeros((16, kind.row_bytes(512)), np.uint8)
    ggml.quantize_into(rows, kind, np.ones(512, np.float32) if weighted else None, theirs)
    assert packed.cpu().numpy().tobytes() == theirs.tobytes()


def test_the_switch_chooses_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = BY_NAME["Q6_K"]
    rows = np.random.default_rng(1).standard_normal((4, 512)).astype(np.float32)
    monkeypatch.setenv(dispatch.SWITCH, "ggml")
    expected = quantize_rows(rows, kind)
    monkeypatch.setenv(dispatch.SWITCH, "torch:cpu")
    assert isinstance(dispatch.kernel_for(kind, False), TorchKernel)
    assert quantize_rows(rows, kind).tobytes() == expected.tobytes()
    assert quantize_rows(rows[:0], kind).shape == (0, 420)


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        dispatch.SWITCH, "torch:mps" if not torch.backends.mps.is_available() else "torch:xpu"
    )
    with pytest.raises(UsageError, match="torch has no device"):
        dispatch.kernel_for(BY_NAME["Q4_K"], False)


@pytest.mark.parametrize("device", DEVICES)
def test_the_root_is_correctly_rounded(device: str) -> None:
    from pedsup_export.kernels.torch_search import sqrt

    bits = np.random.default_rng(0).integers(0, 0x7F800000, 1 << 20, dtype=np.uint32)
    x = bits.view(np.float32)
    ours = sqrt(torch.tensor(x, device=device)).cpu().numpy()
    assert ours.tobytes() == np.sqrt(x).tobytes()
