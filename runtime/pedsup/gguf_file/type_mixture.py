"""Which type each tensor gets: llama.cpp's own mixture, as one pure function.

`Q4_K_M` and its like are recipes: attention values and feed-forward outputs of some layers
get more bits, norms stay as they are, rows that no block divides fall back to another type.
This is a port of `tensor_allows_quantization`, `llama_tensor_get_type` and
`tensor_type_fallback` of llama-quant.cpp (llama.cpp 0c1e57098) for our twelve file types; the
recipes themselves are in `type_recipes.py`. The tests hold both against
`llama_model_quantize(dry_run=True)`.

What stays unquantized keeps the type it is *stored* with, and that is the converter's choice,
not the quantizer's: `conversion/base.py` writes one-dimensional tensors, `*_norm.weight` and
names that do not end in `.weight` as F32 and everything else as its `--outtype`. So Gemma 4's
`per_layer_model_proj.weight` is BF16 in a file made through a bf16 intermediate and F32 in one
made through an f32 intermediate: `StoredTensor.type` is an input here. For the same reason

- `llama_model_quantize` to F16 or BF16 of an f32 intermediate leaves
  `per_layer_model_proj.weight` in F32, where `convert_hf_to_gguf.py --outtype f16|bf16` writes
  it in F16 or BF16; nothing else differs for the llama and gemma4 architectures;
- `--outtype q8_0` of the converter packs that tensor too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pedsup.gguf_file.file_types import FileType
from pedsup.gguf_file.ggml_types import BY_NAME, GGMLType
from pedsup.gguf_file.type_recipes import ModelShape, Recipe

F16 = BY_NAME["F16"]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor before quantization, as the official converter would have written it."""

    shape: tuple[int, ...]
    """ggml's order: the row length first."""
    type: GGMLType


@dataclass(frozen=True)
class TypeOverride:
    """`--tensor-type PATTERN=TYPE`: the first pattern found in a tensor's name wins."""

    pattern: re.Pattern[str]
    type: GGMLType


@dataclass(frozen=True)
class TypeChoice:
    """The type a tensor gets, and why."""

    type: GGMLType
    reason: str


def llama_cpp_order(names: Iterable[str]) -> list[str]:
    """Names in the order of llama.cpp's `weights_map`: by layer, then by name.

    The rules below count layers in this order, and llama_model_quantize writes files in it.
    """

    def key(name: str) -> tuple[int, bytes]:
        block = re.match(r"blk\.(\d+)", name)
        return (int(block[1]) if block else -1, name.encode())

    return sorted(names, key=key)


def choose_types(
    tensors: Mapping[str, StoredTensor],
    *,
    file_type: FileType,
    model: ModelShape,
    has_imatrix: bool = False,
    overrides: Sequence[TypeOverride] = (),
) -> dict[str, TypeChoice]:
    """Choose the type of every tensor of a model, in llama.cpp's order of tensors.

    Args:
        tensors: all tensors of the model by GGUF name; the choice for one depends on the others
            (is there an `output.weight`, how many layers come before).
        file_type: the recipe.
        model: hyperparameters as in the GGUF metadata.
        has_imatrix: whether an importance matrix is used; some rules ask.
        overrides: types for tensors by name, in their order.
    """
    names = llama_cpp_order(tensors)
    recipe = Recipe(file_type, model, has_imatrix, names)
    choices = {}
    for name in names:
        tensor = tensors[name]
        if why := why_not_quantized(name, tensor.shape):
            choices[name] = TypeChoice(tensor.type, why)
        elif not file_type.is_quantized:
            choices[name] = TypeChoice(file_type.default, f"{file_type.name} for all matrices")
        else:
            manual = next((o for o in overrides if o.pattern.search(name)), None)
            if manual:
                wanted, reason = manual.type, f"--tensor-type {manual.pattern.pattern}"
            else:
                wanted, reason = recipe.choose(name, tensor.shape[0])
            choices[name] = _with_fallback(wanted, reason, tensor.shape[0])
    return choices


_KEPT_PARTS: Final = (
    # Of tensor_allows_quantization, what the supported architectures can hold.
    *("_norm.weight", "ffn_gate_inp.weight", "altup", "laurel", "per_layer_model_proj"),
    *("ssm_conv1d", "shortconv.conv.weight", "attn_rel_b.weight", ".position_embd"),
    *(".rel_pos", ".patch_embd", ".patch_merger"),
)
_KEPT_NAMES: Final = ("position_embd.weight", "token_types.weight")


def why_not_quantized(name: str, shape: tuple[int, ...]) -> str | None:
    """The reason why llama.cpp leaves this tensor as it is, or None when it may be quantized."""
    # As ggml_n_dims: dimensions of 1 at the end do not count.
    if all(n == 1 for n in shape[1:]):
        return "kept: one-dimensional"
    if not name.endswith("weight"):
        return "kept: no weight matrix"
    if name in _KEPT_NAMES:
        return "kept: small table"
    part = next((part for part in _KEPT_PARTS if part in name), None)
    return f"kept: {part.strip('_.')}" if part else None


_FALLBACK: Final = {
    **dict.fromkeys(
        ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"
    ),
    **dict.fromkeys(("Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}


def _with_fallback(wanted: GGMLType, reason: str, n_per_row: int) -> TypeChoice:
    """`tensor_type_fallback`: blocks of 32 where 256 does not divide the row, else F16."""
    if n_per_row % wanted.block_size == 0:
        return TypeChoice(wanted, reason)
    smaller = BY_NAME[_FALLBACK.get(wanted.name, wanted.name)]
    chosen = smaller if n_per_row % smaller.block_size == 0 else F16
    reason += f"; rows of {n_per_row} are not a multiple of {wanted.block_size}"
    return TypeChoice(chosen, reason)
