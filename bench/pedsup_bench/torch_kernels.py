"""The torch path on a GPU: same bytes as ggml's made beforehand, and how fast.

    python -m pedsup_bench.torch_kernels prepare FILE              where ggml is
    python -m pedsup_bench.torch_kernels check FILE --device cuda  where the GPU is

`prepare` writes rows and what ggml makes of them; `check` needs no ggml. It compares every block
but the odd ones (which an export leaves to ggml, see `pedsup_export.kernels.torch_path`),
times each type on rows that lie on the device, and adds up E4B at Q4_K_M.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pedsup.gguf_file.ggml_types import BY_NAME
from pedsup_export.kernels.torch_path import quantize

TYPES = ("Q4_K", "Q5_K", "Q6_K", "Q3_K", "Q2_K", "Q4_0", "Q8_0")
WIDTH = 2304
E4B_Q4_K_M = {"Q4_K": 3_373_793_280, "Q6_K": 4_061_134_848}
"""Weights of each type: the two embeddings and some values and downs are Q6_K."""


def prepare(path: Path) -> None:
    """Write nasty rows, noise and importances, and ggml's bytes of them for every type."""
    from pedsup_export import ggml
    from pedsup_export.kernels import dispatch

    rng = np.random.default_rng(4)
    noise = (rng.standard_t(4, (600, WIDTH)) * 0.02).astype(np.float32)
    nasty = np.tile(dispatch.nasty_rows(), (1, WIDTH // 768))
    rows = np.concatenate([nasty, noise])
    importance = dispatch.nasty_importance(WIDTH)
    arrays = {"rows": rows, "importance": importance}
    for name in TYPES:
        for weighted in (False, True):
            packed = np.empty((len(rows), BY_NAME[name].row_bytes(WIDTH)), np.uint8)
            ggml.quantize_into(rows, BY_NAME[name], importance if weighted else None, packed)
            arrays[f"{name}-{weighted}"] = packed
    np.savez(path, **arrays)  # type: ignore[arg-type]


def check(path: Path, device: str, million: int) -> dict[str, Any]:
    """Compare and time on the device; speeds in weights per second."""
    with np.load(path) as arrays:
        rows = torch.tensor(arrays["rows"], device=device)
        importance = torch.tensor(arrays["importance"], device=device)
        result: dict[str, Any] = {"device": _name(device), "torch": torch.__version__}
        for name in TYPES:
            for weighted in (False, True):
                weights = importance if weighted else None
                packed, odd = quantize(rows, BY_NAME[name], weights)
                size = BY_NAME[name].type_size
                wanted = torch.tensor(arrays[f"{name}-{weighted}"], device=device)
                differ = (packed != wanted).view(len(rows), -1, size).any(2) & ~odd
                label = f"{name}{' imatrix' if weighted else ''}"
                result[label] = {
                    "blocks": odd.numel(),
                    "odd": int(odd.sum()),
                    "differ": int(differ.sum()),
                    "weights_per_second": _rate(name, weights, device, million),
                }
    result["E4B Q4_K_M seconds"] = sum(
        count / result[name]["weights_per_second"] for name, count in E4B_Q4_K_M.items()
    )
    return result


def _name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def _rate(name: str, importance: torch.Tensor | None, device: str, million: int) -> float:
    rows = torch.randn((max(1, million * 1_000_000 // WIDTH), WIDTH), device=device) * 0.02
    quantize(rows[:4], BY_NAME[name], importance)
    _wait(device)
    start = time.perf_counter()
    quantize(rows, BY_NAME[name], importance)
    _wait(device)
    return float(rows.numel() / (time.perf_counter() - start))


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def main(arguments: list[str] | None = None) -> None:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(prog="pedsup_bench.torch_kernels", description=__doc__)
    parser.add_argument("command", choices=["prepare", "check"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--million", type=int, default=300, help="weights timed per type")
    options = parser.parse_args(arguments)
    if options.command == "prepare":
        prepare(options.file)
    else:
        print(json.dumps(check(options.file, options.device, options.million), indent=1))


if __name__ == "__main__":
    main()
