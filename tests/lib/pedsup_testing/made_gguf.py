"""GGUF files made for tests: real shapes without data (sparse), or small with random data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
"""ggml's order: the row length first."""


@dataclass(frozen=True)
class Made:
    """A made architecture: what llama.cpp must know, and the tensors by GGUF name."""

    arch: str
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    n_ff: int | list[int]
    tensors: Mapping[str, Shape]
    extra: Mapping[str, int | float | list[bool]] = field(default_factory=dict)


def llama(
    n_layer: int, n_embd: int, heads: tuple[int, int], n_ff: int, vocab: int, *, tied: bool
) -> Made:
    """A llama shape; `heads` are query heads and key heads."""
    n_head, n_head_kv = heads
    kv = n_embd // n_head * n_head_kv
    tensors: dict[str, Shape] = {"token_embd.weight": (n_embd, vocab)}
    for i in range(n_layer):
        block = {
            "attn_norm.weight": (n_embd,),
            "attn_q.weight": (n_embd, n_embd),
            "attn_k.weight": (n_embd, kv),
            "attn_v.weight": (n_embd, kv),
            "attn_output.weight": (n_embd, n_embd),
            "ffn_norm.weight": (n_embd,),
            "ffn_gate.weight": (n_embd, n_ff),
            "ffn_up.weight": (n_embd, n_ff),
            "ffn_down.weight": (n_ff, n_embd),
        }
        tensors |= {f"blk.{i}.{name}": shape for name, shape in block.items()}
    tensors["output_norm.weight"] = (n_embd,)
    if not tied:
        tensors["output.weight"] = (n_embd, vocab)
    return Made("llama", n_layer, n_embd, n_head, n_head_kv, n_ff, tensors)


def gemma3_4b() -> Made:
    """The text shape of Gemma 3 4B and MedGemma."""
    n_layer, n_embd, head, (n_head, n_head_kv), n_ff = 34, 2560, 256, (8, 4), 10240
    tensors: dict[str, Shape] = {
        "token_embd.weight": (n_embd, 262208),
        "output_norm.weight": (n_embd,),
    }
    for i in range(n_layer):
        block: dict[str, Shape] = {
            "attn_q.weight": (n_embd, n_head * head),
            "attn_k.weight": (n_embd, n_head_kv * head),
            "attn_v.weight": (n_embd, n_head_kv * head),
            "attn_output.weight": (n_head * head, n_embd),
            "attn_q_norm.weight": (head,),
            "attn_k_norm.weight": (head,),
            "ffn_gate.weight": (n_embd, n_ff),
            "ffn_up.weight": (n_embd, n_ff),
            "ffn_down.weight": (n_ff, n_embd),
        }
        norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
        block |= {f"{name}.weight": (n_embd,) for name in norms}
        tensors |= {f"blk.{i}.{name}": shape for name, shape in block.items()}
    extra = {"attention.key_length": head, "attention.value_length": head,
             "attention.sliding_window": 1024}  # fmt: skip
    return Made("gemma3", n_layer, n_embd, n_head, n_head_kv, n_ff, tensors, extra)


def qwen2_1_5b() -> Made:
    """The shape of Qwen2.5 1.5B, with its biases."""
    made = llama(28, 1536, (12, 2), 8960, 151936, tied=True)
    biases = {f"blk.{i}.attn_{part}.bias": (1536 if part == "q" else 256,)
              for i in range(28) for part in "qkv"}  # fmt: skip
    return replace(made, arch="qwen2", tensors={**made.tensors, **biases})


def gemma4(name: str) -> Made:
    """The text shape of `E4B` or `E2B`, shared layers without their unused K and V."""
    n_layer, n_embd, heads, shared = {
        "E4B": (42, 2560, (8, 2), 18),
        "E2B": (35, 1536, (8, 1), 20),
    }[name]
    every = 6 if name == "E4B" else 5
    n_ff = [10240 if name == "E4B" else 6144 * (2 if i >= n_layer - shared else 1)
            for i in range(n_layer)]  # fmt: skip
    full = [(i + 1) % every == 0 for i in range(n_layer)]
    tensors: dict[str, Shape] = {
        "token_embd.weight": (n_embd, 262144),
        "per_layer_token_embd.weight": (256 * n_layer, 262144),
        "per_layer_model_proj.weight": (n_embd, 256 * n_layer),
        "per_layer_proj_norm.weight": (256,),
        "rope_freqs.weight": (256,),
        "output_norm.weight": (n_embd,),
    }
    for i in range(n_layer):
        head = 512 if full[i] else 256
        block: dict[str, Shape] = {
            "attn_q.weight": (n_embd, heads[0] * head),
            "attn_output.weight": (heads[0] * head, n_embd),
            "attn_q_norm.weight": (head,),
            "attn_norm.weight": (n_embd,),
            "post_attention_norm.weight": (n_embd,),
            "post_ffw_norm.weight": (n_embd,),
            "post_norm.weight": (n_embd,),
            "ffn_norm.weight": (n_embd,),
            "ffn_gate.weight": (n_embd, n_ff[i]),
            "ffn_up.weight": (n_embd, n_ff[i]),
            "ffn_down.weight": (n_ff[i], n_embd),
            "inp_gate.weight": (n_embd, 256),
            "proj.weight": (256, n_embd),
            "layer_output_scale.weight": (1,),
        }
        if i < n_layer - shared:
            block |= {
                "attn_k.weight": (n_embd, heads[1] * head),
                "attn_v.weight": (n_embd, heads[1] * head),
                "attn_k_norm.weight": (head,),
            }
        tensors |= {f"blk.{i}.{key}": shape for key, shape in block.items()}
    extra: dict[str, int | float | list[bool]] = {
        "attention.sliding_window": 512,
        "attention.sliding_window_pattern": [not f for f in full],
        "attention.shared_kv_layers": shared,
        "attention.key_length": 512,
        "attention.value_length": 512,
        "attention.key_length_swa": 256,
        "attention.value_length_swa": 256,
        "embedding_length_per_layer_input": 256,
    }
    return Made("gemma4", n_layer, n_embd, *heads, n_ff, tensors, extra)


def _writer(path: Path, made: Made) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, made.arch)
    writer.add_context_length(2048)
    writer.add_embedding_length(made.n_embd)
    writer.add_block_count(made.n_layer)
    writer.add_feed_forward_length(made.n_ff)
    writer.add_head_count(made.n_head)
    writer.add_head_count_kv(made.n_head_kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(262144)
    for key, value in made.extra.items():
        full = f"{made.arch}.{key}"
        if isinstance(value, list):
            writer.add_array(full, value)
        else:
            writer.add_uint32(full, int(value))
    return writer


def stored_type(shape: Shape, name: str, outtype: str) -> str:
    """The type that the official converter writes a tensor with at `--outtype` (upper case)."""
    flat = len(shape) == 1 or name.endswith("_norm.weight")
    return "F32" if flat else outtype


def write_sparse(path: Path, made: Made, outtype: str = "BF16") -> None:
    """A header with all tensors and a file of the right length, without data on disk."""
    writer = _writer(path, made)
    for name, shape in made.tensors.items():
        kind = gguf.GGMLQuantizationType[stored_type(shape, name, outtype)]
        size = prod(shape) * (4 if kind.name == "F32" else 2)
        # The dtype is overridden by raw_dtype; only its presence matters.
        writer.add_tensor_info(name, shape[::-1], np.dtype(np.float32), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    infos = [info for table in writer.tensors for info in table.values()]
    data = sum(gguf.GGUFWriter.ggml_pad(info.nbytes, writer.data_alignment) for info in infos)
    writer.close()
    header = gguf.GGUFWriter.ggml_pad(path.stat().st_size, writer.data_alignment)
    with path.open("r+b") as file:
        file.truncate(header + data)


def write_data(
    path: Path, made: Made, value: Callable[[str, Shape], NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """A whole F32 GGUF; `value(name, shape in ggml order)` gives each tensor. Returns them."""
    writer = _writer(path, made)
    arrays = {name: value(name, shape) for name, shape in made.tensors.items()}
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return arrays
