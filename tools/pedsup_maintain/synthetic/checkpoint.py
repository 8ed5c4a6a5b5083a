"""A Gemma 4 checkpoint of E4B shape with random weights, written without torch and in a stream.

The benchmark of the export needs an input of true size and shape, not of true content. Tensors
are cut from a pool of random bf16 numbers, each from another offset, so that writing runs at the
speed of the disk and at most one shard's header and the pool are in memory.

Format: https://github.com/huggingface/safetensors#format (u64 length, JSON header, data).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from pedsup_maintain.synthetic.shapes import (
    Shape,
    TensorSpec,
    model_tensors,
    projections,
    text_config,
)
from pedsup_maintain.synthetic.sizes import model_bytes
from pedsup_maintain.synthetic.tokenizer import vocabulary, write_tokenizer

WEIGHT_SCALE: Final = 0.02
POOL_VALUES: Final = 1 << 23
POOL_PIECE: Final = 1 << 18
SHARD_BYTES: Final = 5_000_000_000
RANK, ALPHA = 16, 32

Uint16 = NDArray[np.uint16]


def to_bfloat16(values: NDArray[np.float32]) -> Uint16:
    """Round float32 to the nearest bf16 (ties to even), as uint16."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


class Pool:
    """Random numbers made once and cut again and again, each time from another place."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.values = np.empty(POOL_VALUES, np.uint16)
        for start in range(0, POOL_VALUES, POOL_PIECE):
            noise = self.random.standard_normal(POOL_PIECE, dtype=np.float32)
            piece = to_bfloat16(noise * np.float32(WEIGHT_SCALE))
            self.values[start : start + POOL_PIECE] = piece

    def blocks(self, spec: TensorSpec) -> Iterator[Uint16]:
        """The values of a tensor, bf16 as uint16, in pieces."""
        if spec.is_norm:
            near_one = self.random.uniform(0.9, 1.1, spec.n_values).astype(np.float32)
            yield to_bfloat16(near_one)
            return
        left, start = spec.n_values, int(self.random.integers(POOL_VALUES))
        while left:
            block = self.values[start : start + left]
            yield block
            left, start = left - block.size, 0


def header(specs: Sequence[tuple[str, tuple[int, ...]]], dtype: str, width: int) -> bytes:
    """The length and JSON header of a safetensors file whose tensors follow in this order."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in specs:
        end = at + width * prod(shape)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8, as the reference does
    return struct.pack("<Q", len(text)) + text


def _shards(tensors: Sequence[TensorSpec], limit: int) -> list[list[TensorSpec]]:
    """Cut the list where a shard would grow past `limit` bytes; a tensor is never divided."""
    shards: list[list[TensorSpec]] = [[]]
    used = 0
    for tensor in tensors:
        n_bytes = 2 * tensor.n_values
        if shards[-1] and used + n_bytes > limit:
            shards.append([])
            used = 0
        shards[-1].append(tensor)
        used += n_bytes
    return shards


def write_base(
    folder: Path,
    shape: Shape,
    *,
    seed: int = 0,
    vocab_source: Path | None = None,
    on_bytes: Callable[[int], object] = lambda n: None,
) -> None:
    """Write the checkpoint: config, tokenizer, bf16 shards and their index.

    Args:
        vocab_source: GGUF with Gemma 4's vocabulary; used when it has `shape.vocab` tokens.
        on_bytes: called with the number of bytes of weights just written.

    Raises:
        OSError: the disk is full, the folder not writable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", text_config(shape))
    write_tokenizer(folder, vocabulary(shape.vocab, vocab_source))
    pool = Pool(seed)
    shards = _shards(model_tensors(shape), SHARD_BYTES)
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors"
        if len(shards) > 1:
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        where |= {t.name: name for t in shard}
        with (folder / name).open("wb", buffering=0) as file:
            file.write(header([(t.name, t.shape) for t in shard], "BF16", 2))
            for tensor in shard:
                for block in pool.blocks(tensor):
                    _write_all(file, block)
                    on_bytes(block.nbytes)
    if len(shards) > 1:
        total = model_bytes(shape)
        metadata = {"total_parameters": total // 2, "total_size": total}
        index = {"metadata": metadata, "weight_map": dict(sorted(where.items()))}
        _write_json(folder / "model.safetensors.index.json", index)


def _write_all(file: BinaryIO, block: NDArray[Any]) -> None:
    view = block.data.cast("B")
    while len(view):  # an unbuffered write may take less than it was given
        view = view[file.write(view) :]


def adapter_tensors(shape: Shape) -> list[tuple[str, tuple[int, int]]]:
    """PEFT's names and shapes of the two LoRA halves of every projection in use."""
    found = []
    for layer in range(shape.n_layers):
        for module, (n_out, n_in) in projections(shape, layer).items():
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            found.append((f"{prefix}.lora_A.weight", (RANK, n_in)))
            found.append((f"{prefix}.lora_B.weight", (n_out, RANK)))
    return found


def write_adapter(folder: Path, shape: Shape, base: Path, *, seed: int = 1) -> None:
    """Write a PEFT LoRA adapter (r16, alpha 32, float32) for the checkpoint at `base`.

    A is uniform in +-1/sqrt(in), as PEFT starts it; B is normal, so that every delta counts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    tensors = adapter_tensors(shape)
    with (folder / "adapter_model.safetensors").open("wb", buffering=0) as file:
        file.write(header(tensors, "F32", 4))
        for name, size in tensors:
            if ".lora_A." in name:
                values = random.uniform(-1, 1, size) / np.sqrt(size[1])
            else:
                values = random.normal(0, WEIGHT_SCALE, size)
            _write_all(file, values.astype(np.float32))
    _write_json(
        folder / "adapter_config.json",
        {
            "base_model_name_or_path": str(base),
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "lora_alpha": ALPHA,
            "lora_dropout": 0.05,
            "modules_to_save": None,
            "peft_type": "LORA",
            "r": RANK,
            # A pattern, because a plain list would also match dead projections where they exist.
            "target_modules": rf".*\.layers\.\d+\.({_module_pattern(shape)})",
            "task_type": "CAUSAL_LM",
            "use_dora": False,
            "use_rslora": False,
        },
    )


def _module_pattern(shape: Shape) -> str:
    return "|".join(name.replace(".", r"\.") for name in projections(shape, 0))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
