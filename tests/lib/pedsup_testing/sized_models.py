"""GGUF models of any size that take no disk: real metadata and vocabulary, weights all zero.

llama.cpp loads and runs them like any other, so what it allocates for them can be measured. Only
the factors of RoPE are ones: llama.cpp divides by them, and zero would make every logit NaN.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import gguf
import numpy as np

from pedsup.gguf_file import ArrayValue, read_header

Kind = gguf.GGMLQuantizationType


@dataclass(frozen=True)
class Sizes:
    """The sizes of a Llama, of a Gemma 4 when `per_layer` is not 0, or of another `family`."""

    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head: int
    n_vocab: int = 262144
    per_layer: int = 0
    head_full: int = 0
    n_swa: int = 512
    n_shared: int = 0
    every: int = 6
    """Each layer of this number attends to the full context."""
    double_wide: bool = False
    kind: Kind = Kind.Q8_0
    n_ctx: int = 131072
    family: str = ""

    @property
    def arch(self) -> str:
        return self.family or ("gemma4" if self.per_layer else "llama")

    def with_kind(self, name: str) -> Sizes:
        return replace(self, kind=Kind[name])


E4B = Sizes(42, 2560, 10240, 8, 2, 256, per_layer=256, head_full=512, n_shared=18, kind=Kind.Q4_K)
E2B = Sizes(35, 1536, 6144, 8, 1, 256, per_layer=256, head_full=512, n_shared=20, every=5,
            double_wide=True, kind=Kind.Q4_K)  # fmt: skip
SMALL_GEMMA = Sizes(12, 512, 2048, 8, 2, 64, per_layer=256, head_full=128, n_shared=6)
LLAMA_1B = Sizes(16, 2048, 8192, 32, 8, 64, n_vocab=128256, kind=Kind.Q4_0)
MEDGEMMA_4B = Sizes(34, 2560, 10240, 8, 4, 256, n_vocab=262208, n_swa=1024, family="gemma3",
                    kind=Kind.Q4_K)  # fmt: skip
GEMMA3_270M = Sizes(18, 640, 2048, 4, 1, 256, family="gemma3")
QWEN2_1_5B = Sizes(28, 1536, 8960, 12, 2, 128, n_vocab=151936, family="qwen2", kind=Kind.Q4_K)
QWEN3_1_7B = Sizes(28, 2048, 6144, 16, 8, 128, n_vocab=151936, family="qwen3", kind=Kind.Q4_K)


def write(path: Path, sizes: Sizes, vocabulary: Path | None) -> Path:
    """Write a model; `vocabulary` is a GGUF to take the tokenizer from (None: no tokenizer)."""
    writer = gguf.GGUFWriter(path, sizes.arch)
    writer.add_name(path.stem)
    writer.add_context_length(sizes.n_ctx)
    writer.add_embedding_length(sizes.n_embd)
    writer.add_block_count(sizes.n_layer)
    writer.add_head_count(sizes.n_head)
    writer.add_head_count_kv(sizes.n_head_kv)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    tensors = _gemma4(writer, sizes) if sizes.per_layer else _plain(writer, sizes)
    if vocabulary is None:
        writer.add_tokenizer_model("no_vocab")
        writer.add_vocab_size(sizes.n_vocab)
    else:
        _copy_tokenizer(writer, vocabulary)
    lengths: list[int] = []
    ones: list[tuple[int, int]] = []
    for name, shape in tensors.items():
        kind = sizes.kind if len(shape) == 2 else Kind.F32
        block, size = gguf.GGML_QUANT_SIZES[kind]
        n_bytes = prod(shape) // block * size
        if kind is Kind.F32:
            writer.add_tensor_info(name, shape, np.dtype(np.float32), n_bytes)
        else:
            stored = (*shape[:-1], shape[-1] // block * size)
            writer.add_tensor_info(name, stored, np.dtype(np.uint8), n_bytes, raw_dtype=kind)
        if name == "rope_freqs.weight":
            ones.append((sum(lengths), prod(shape)))
        lengths.append(gguf.GGUFWriter.ggml_pad(n_bytes, writer.data_alignment))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    start = gguf.GGUFWriter.ggml_pad(path.stat().st_size, writer.data_alignment)
    with path.open("r+b") as file:
        file.truncate(start + sum(lengths))
        for offset, count in ones:
            file.seek(start + offset)
            file.write(np.ones(count, np.float32).tobytes())
    return path


def _plain(writer: gguf.GGUFWriter, s: Sizes) -> dict[str, tuple[int, ...]]:
    """A llama's tensors, and what another family has beside them."""
    writer.add_feed_forward_length(s.n_ff)
    writer.add_key_length(s.head)
    writer.add_value_length(s.head)
    writer.add_rope_dimension_count(s.head)
    if s.family == "gemma3":
        writer.add_sliding_window(s.n_swa)
        writer.add_rope_freq_base_swa(1e4)
    tensors: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (s.n_vocab, s.n_embd),
        "output_norm.weight": (s.n_embd,),
    }
    more: dict[str, tuple[int, ...]] = {}
    if s.family in ("gemma3", "qwen3"):
        more |= {"attn_q_norm.weight": (s.head,), "attn_k_norm.weight": (s.head,)}
    if s.family == "gemma3":
        more |= {"post_attention_norm.weight": (s.n_embd,), "post_ffw_norm.weight": (s.n_embd,)}
    if s.family == "qwen2":
        kv = (s.n_head_kv * s.head,)
        more |= {"attn_q.bias": (s.n_head * s.head,), "attn_k.bias": kv, "attn_v.bias": kv}
    for i in range(s.n_layer):
        block = {
            "attn_norm": (s.n_embd,),
            "attn_q": (s.n_head * s.head, s.n_embd),
            "attn_k": (s.n_head_kv * s.head, s.n_embd),
            "attn_v": (s.n_head_kv * s.head, s.n_embd),
            "attn_output": (s.n_embd, s.n_head * s.head),
            "ffn_norm": (s.n_embd,),
            "ffn_gate": (s.n_ff, s.n_embd),
            "ffn_up": (s.n_ff, s.n_embd),
            "ffn_down": (s.n_embd, s.n_ff),
        }
        tensors |= {f"blk.{i}.{name}.weight": shape for name, shape in block.items()}
        tensors |= {f"blk.{i}.{name}": shape for name, shape in more.items()}
    return tensors


def _gemma4(writer: gguf.GGUFWriter, s: Sizes) -> dict[str, tuple[int, ...]]:
    first_shared = s.n_layer - s.n_shared
    n_ff = [s.n_ff * (2 if s.double_wide and i >= first_shared else 1) for i in range(s.n_layer)]
    sliding = [(i + 1) % s.every != 0 for i in range(s.n_layer)]
    writer.add_feed_forward_length(n_ff)
    writer.add_key_length(s.head_full)
    writer.add_value_length(s.head_full)
    writer.add_key_length_swa(s.head)
    writer.add_value_length_swa(s.head)
    writer.add_rope_dimension_count(s.head_full)
    writer.add_rope_dimension_count_swa(s.head)
    writer.add_rope_freq_base_swa(1e4)
    writer.add_sliding_window(s.n_swa)
    writer.add_sliding_window_pattern(sliding)
    writer.add_shared_kv_layers(s.n_shared)
    writer.add_embedding_length_per_layer_input(s.per_layer)
    writer.add_final_logit_softcapping(30.0)
    tensors: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (s.n_vocab, s.n_embd),
        "per_layer_token_embd.weight": (s.n_vocab, s.per_layer * s.n_layer),
        "per_layer_model_proj.weight": (s.per_layer * s.n_layer, s.n_embd),
        "per_layer_proj_norm.weight": (s.per_layer,),
        "output_norm.weight": (s.n_embd,),
        "rope_freqs.weight": (s.head_full // 2,),
    }
    for i in range(s.n_layer):
        head = s.head if sliding[i] else s.head_full
        block: dict[str, tuple[int, ...]] = {
            "attn_norm": (s.n_embd,),
            "attn_q": (head * s.n_head, s.n_embd),
            "attn_q_norm": (head,),
            "attn_output": (s.n_embd, head * s.n_head),
            "post_attention_norm": (s.n_embd,),
            "layer_output_scale": (1,),
            "ffn_norm": (s.n_embd,),
            "ffn_gate": (n_ff[i], s.n_embd),
            "ffn_up": (n_ff[i], s.n_embd),
            "ffn_down": (s.n_embd, n_ff[i]),
            "post_ffw_norm": (s.n_embd,),
            "inp_gate": (s.per_layer, s.n_embd),
            "proj": (s.n_embd, s.per_layer),
            "post_norm": (s.n_embd,),
        }
        if i < first_shared:
            block |= {
                "attn_k": (head * s.n_head_kv, s.n_embd),
                "attn_v": (head * s.n_head_kv, s.n_embd),
                "attn_k_norm": (head,),
            }
        tensors |= {f"blk.{i}.{name}.weight": shape for name, shape in block.items()}
    return tensors


def _copy_tokenizer(writer: gguf.GGUFWriter, source: Path) -> None:
    # gguf's own reader takes a minute for a vocabulary of 262144.
    header = read_header(source)
    for key, value in header.metadata.items():
        if not key.startswith("tokenizer."):
            continue
        if isinstance(value, ArrayValue):
            writer.add_array(key, value.values())
        else:
            writer.add_key_value(key, value, gguf.GGUFValueType(header.value_types[key]))
