"""How fast a GPU quantizes a whole model, and whether its bytes are ggml's.

    pedsup-export run --base BASE --out x.gguf --dry-run --json > plan.json
    python -m pedsup_bench.gpu_quantize plan.json --device cuda

Every tensor of the plan is made on the GPU with random bf16 weights (the export of an adapter
trained there would have it there), widened to float32, quantized to its planned type and copied
to the host. Odd blocks go through ggml on the host, as in an export. `--check N` compares the
first N rows of each tensor with `ggml_quantize_chunk`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from pedsup.gguf_file.ggml_types import BY_NAME, GGMLType
from pedsup_export import ggml
from pedsup_export.kernels.odd_blocks import redo

SLAB = 1 << 28
"""Weights on the GPU at a time: 1 GiB in float32."""


@dataclass(frozen=True)
class Figures:
    """The result. Times in seconds; weights in units."""

    device: str
    weights: int
    packed_bytes: int
    gpu_s: float
    """Widening and quantizing, as seen from the host, synchronized per slab."""
    copy_s: float
    """Copying the packed bytes to the host."""
    odd_s: float
    """Packing the odd blocks with ggml."""
    odd_blocks: int
    checked_rows: int
    differing_rows: int

    @property
    def total_s(self) -> float:
        """Everything but making the random weights and the check."""
        return self.gpu_s + self.copy_s + self.odd_s


def measure(tensors: list[dict[str, Any]], device: str, check: int) -> Figures:
    """Quantize every quantized tensor of a plan; other tensors cost a copy and are left out."""
    import torch

    from pedsup_export.kernels import torch_path

    def now() -> float:
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    generator = torch.Generator(device).manual_seed(0)
    sums: dict[str, float] = dict.fromkeys(
        ("weights", "bytes", "gpu", "copy", "odd", "odd_blocks", "rows", "wrong"), 0
    )
    for tensor in tensors:
        kind = BY_NAME[tensor["type"]]
        n_per_row, n_rows = tensor["shape"][0], prod(tensor["shape"][1:])
        if kind.name not in torch_path._PACK:
            continue
        for lo in range(0, n_rows, SLAB // n_per_row):
            shape = (min(n_rows - lo, SLAB // n_per_row), n_per_row)
            weights = torch.randn(shape, generator=generator, device=device) * 0.02
            weights = weights.to(torch.bfloat16)
            start = now()
            packed, odd = torch_path.quantize(weights.to(torch.float32), kind, None)
            ready = now()
            host, flags = packed.cpu().numpy(), odd.view(-1).cpu().numpy()
            copied = now()
            marked = int(flags.sum())
            if marked:
                redo(weights.to(torch.float32).cpu().numpy(), kind, None, host, flags)
            sums["odd"] += now() - copied
            sums["gpu"] += ready - start
            sums["copy"] += copied - ready
            sums["odd_blocks"] += marked
            sums["weights"] += prod(shape)
            sums["bytes"] += host.nbytes
            rows = weights[:check].to(torch.float32).cpu().numpy() if lo == 0 else None
            if rows is not None:
                sums["rows"] += len(rows)
                sums["wrong"] += _differing(rows, kind, host[: len(rows)])
            del weights, packed, odd
        print(f"{tensor['name']:40} {kind.name}", file=sys.stderr)
    name = torch.cuda.get_device_name() if device.startswith("cuda") else device
    return Figures(
        name, int(sums["weights"]), int(sums["bytes"]), sums["gpu"], sums["copy"], sums["odd"],
        int(sums["odd_blocks"]), int(sums["rows"]), int(sums["wrong"]),
    )  # fmt: skip


def _differing(rows: np.ndarray, kind: GGMLType, packed: np.ndarray) -> int:
    wanted = np.empty_like(packed)
    ggml.quantize_into(np.ascontiguousarray(rows), kind, None, wanted)
    return int((wanted != packed).any(axis=1).sum())


def main() -> None:
    """Print one JSON document with the figures of each repetition."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("plan", type=Path, help="output of pedsup-export run --dry-run --json")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--check", type=int, default=64, help="rows per tensor to check")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    tensors = json.loads(options.plan.read_text())["tensors"]
    runs = [measure(tensors, options.device, options.check) for _ in range(options.repeat)]
    print(json.dumps([{**asdict(r), "total_s": r.total_s} for r in runs], indent=1))


if __name__ == "__main__":
    main()
