"""The second copies of weights in the layouts of llama.cpp's extra buffer types."""

from __future__ import annotations

from typing import Final

from pedsup.gguf_file import GGUFHeader, TensorInfo
from pedsup.gguf_file.shape import PER_LAYER_TABLE

AMX: Final = frozenset({"amx_int8", "amx_tile", "avx512_vnni"})
AMX_BLOCK_EXTRA: Final = {
    "F16": 0, "Q4_0": 0, "Q4_1": 0, "Q6_K": 0, "Q8_0": 4, "Q4_K": 4, "Q5_K": 4, "IQ4_XS": 2,
}  # fmt: skip
"""Bytes that AMX's packing adds to a block, by type."""


def repacked_bytes(header: GGUFHeader, features: frozenset[str]) -> int:
    """Bytes of the weights that llama.cpp copies into an extra buffer type on this processor.

    A tied token embedding is copied too: it is the output matrix.

    Args:
        features: flags of /proc/cpuinfo that llama.cpp was built to use
            (`engine.vector_units.usable`).
    """
    tied = "output.weight" not in header.tensors
    return sum(
        _repacked_bytes(tensor, features)
        for tensor in header.tensors.values()
        if _multiplied(tensor, tied=tied)
    )


def _repacked_bytes(tensor: TensorInfo, features: frozenset[str]) -> int:
    """Bytes of one tensor's copy; 0 where there is none. AMX is asked first, as llama.cpp does.

    Rules: `qtype_has_amx_kernels` and `get_row_size` in ggml-cpu/amx (a block of some types is
    packed with 2 or 4 bytes more), `ggml_repack_get_optimal_repack_type` in ggml-cpu/repack.cpp.
    """
    kind, rows = tensor.type.name, tensor.shape[1]
    if features >= AMX and kind in AMX_BLOCK_EXTRA and rows % 32 == 0:
        blocks = tensor.n_elements // tensor.type.block_size
        return tensor.n_bytes + blocks * AMX_BLOCK_EXTRA[kind]
    multiple = repacked_types(features).get(kind)
    return tensor.n_bytes if multiple and rows % multiple == 0 else 0


def repacked_types(features: frozenset[str]) -> dict[str, int]:
    """Tensor types that are repacked without AMX, and what their number of rows must divide by."""
    if "avx2" in features:
        types = {"Q4_0": 8, "Q4_K": 8, "IQ4_NL": 8, "MXFP4": 8}
        return types | ({"Q2_K": 8} if "avx512f" in features else {})
    if features & {"asimddp", "i8mm"}:
        types = dict.fromkeys(("Q4_K", "Q5_K", "Q6_K"), 8)
        return types | dict.fromkeys(("Q4_0", "IQ4_NL", "MXFP4", "Q8_0"), 4)
    return {}


def _multiplied(tensor: TensorInfo, *, tied: bool) -> bool:
    """Whether a tensor is the weight of a matrix product (and not only looked up)."""
    if len(tensor.shape) != 2 or tensor.name == PER_LAYER_TABLE:
        return False
    return tied if tensor.name == "token_embd.weight" else tensor.name.endswith(".weight")
