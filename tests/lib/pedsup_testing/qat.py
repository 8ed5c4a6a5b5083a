"""Bases as quantization-aware training leaves them: bfloat16 weights on a Q4_0 grid."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]


def bfloat16(values: NDArray[Any]) -> Rows:
    """The nearest bfloat16 values, half to even, as float32 (torch is the oracle of the tests)."""
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(values, np.float32))
    return tensor.to(torch.bfloat16).to(torch.float32).numpy()


def extremum(blocks: Rows) -> Rows:
    """ggml's own scale: the signed extremum over -8."""
    most = np.take_along_axis(blocks, np.abs(blocks).argmax(1)[:, None], 1)[:, 0]
    return most / np.float32(-8)


def root_mean_square(blocks: Rows) -> Rows:
    """A scale that clips large weights and does not reach the level -8 in small blocks."""
    return np.sqrt((blocks * blocks).mean(1)) * np.float32(0.4)


def on_grid(rows: Rows, scale: Callable[[Rows], Rows], store: Callable[[Rows], Rows]) -> Rows:
    """Rows put on a grid: d by `scale`, stored by `store`; weights in bfloat16."""
    blocks = rows.reshape(-1, 32)
    d = store(scale(blocks).astype(np.float32))[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.nan_to_num(np.clip(np.rint(blocks / d), -8, 7))
    return bfloat16(level * d).reshape(rows.shape)


def base_on_grid(source: Path, target: Path, *, tables: bool = False) -> Path:
    """A copy of a checkpoint in bfloat16 whose matrices lie on a grid (and its tables too)."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors")
    for name, tensor in weights.items():
        values = tensor.float().numpy()
        matrix = values.ndim == 2 and (tables or "embed" not in name)
        if matrix and "per_layer_model_projection" not in name:
            values = on_grid(values, root_mean_square, bfloat16)
        weights[name] = torch.from_numpy(values.copy()).to(torch.bfloat16)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((target / "config.json").read_text())
    config["dtype"] = "bfloat16"
    (target / "config.json").write_text(json.dumps(config))
    return target
