"""The llama architecture: Llama 3, SmolLM2 and their kin.

Hyperparameters and tensor names follow llama.cpp's converter (conversion/llama.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pedsup_export.arch.base import Architecture, Config, ModelTensors, OutputTensor, Shape
from pedsup_export.arch.decoder import (
    decoder_layout,
    decoder_metadata,
    head_dim,
    head_entries,
    rope_settings,
)
from pedsup_export.arch.placing import place
from pedsup_export.gguf.header import KV, u32
from pedsup_export.tokenizer.vocab import llama_vocabulary


def metadata(config: Mapping[str, object]) -> list[KV]:
    """Hyperparameters of a llama file."""
    c = Config(config)
    entries = decoder_metadata("llama", c, ("default", "linear", "llama3"))
    if config.get("head_dim") is not None:
        entries += head_entries("llama", head_dim(c))
    return [
        *entries,
        u32("llama.vocab_size", c.integer("vocab_size", high=1 << 24)),
        u32("llama.rope.dimension_count", head_dim(c)),
    ]


def rope_factors(config: Mapping[str, object]) -> np.ndarray | None:
    """Llama 3's per-frequency factors, float32 [head_dim / 2], or None for plain rope.

    Source: `_compute_llama3_parameters` in transformers' modeling_rope_utils.py.
    """
    rope = rope_settings(config, ("default", "linear", "llama3"))
    if rope["rope_type"] != "llama3":
        return None
    r, dim = Config(rope), head_dim(Config(config))
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    frequencies = 1.0 / np.float32(r.number("rope_theta")) ** exponents
    low, high = r.number("low_freq_factor", 1.0), r.number("high_freq_factor", 4.0)
    old_context, factor = r.number("original_max_position_embeddings", 8192), r.number("factor", 8)
    factors = []
    for frequency in frequencies:
        wavelength = 2 * math.pi / float(frequency)
        if wavelength < old_context / high:
            factors.append(1.0)
        elif wavelength > old_context / low:
            factors.append(factor)
        else:
            smooth = (old_context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)


def tensors(
    config: Mapping[str, object], shapes: Mapping[str, Shape] | None, n_tokens: int
) -> ModelTensors:
    """Place every checkpoint tensor; q and k get their rotary halves interleaved."""
    c = Config(config)
    layout = replace(
        decoder_layout("llama", c, head_dim(c)), left_out=_reason_left_out, biases=None
    )

    def make(name: str, shape: Shape, source: str) -> OutputTensor:
        rotary = ".attn_q." in name or ".attn_k." in name
        return OutputTensor(name, shape, source, head_rows=head_dim(c) if rotary else None)

    placed = place(layout, shapes, n_tokens, make)
    if (factors := rope_factors(config)) is None:
        return placed
    computed = OutputTensor("rope_freqs.weight", factors.shape, None, factors)
    return replace(placed, outputs=(computed, *placed.outputs))


def _reason_left_out(source: str) -> str | None:
    return "computed by llama.cpp itself" if source.endswith(".rotary_emb.inv_freq") else None


ARCHITECTURE = Architecture(
    name="llama",
    hf_names=("LlamaForCausalLM",),
    metadata=metadata,
    tensors=tensors,
    vocabulary=llama_vocabulary,
    tied_by_default=False,
)
