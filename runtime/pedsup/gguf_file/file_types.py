"""The file types of llama.cpp that pedsup writes: number, and the type most tensors get.

A file type is a recipe, not a tensor type: `type_mixture.choose_types` gives the type of each
tensor. Source: `enum llama_ftype` in llama.h, `llama_ftype_get_default_type` in
llama-quant.cpp and `QUANT_OPTIONS` in tools/quantize/quantize.cpp, llama.cpp 0c1e57098.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pedsup.gguf_file.ggml_types import BY_NAME, GGMLType


class FileType(NamedTuple):
    """One value of `--quant`: `number` goes into `general.file_type`."""

    name: str
    number: int
    default: GGMLType
    """The type of every tensor that the mixture does not treat apart."""

    @property
    def is_quantized(self) -> bool:
        """Whether the default type packs weights in blocks (F32, F16 and BF16 do not)."""
        return self.default.block_size > 1


_ROWS: Final = [
    ("F32", 0, "F32"),
    ("F16", 1, "F16"),
    ("BF16", 32, "BF16"),
    ("Q8_0", 7, "Q8_0"),
    ("Q6_K", 18, "Q6_K"),
    ("Q5_K_M", 17, "Q5_K"),
    ("Q4_K_M", 15, "Q4_K"),
    ("Q4_K_S", 14, "Q4_K"),
    ("Q4_0", 2, "Q4_0"),
    ("IQ4_XS", 30, "IQ4_XS"),
    ("Q3_K_M", 12, "Q3_K"),
    ("Q2_K", 10, "Q2_K"),
]
FILE_TYPES: Final[dict[str, FileType]] = {
    name: FileType(name, number, BY_NAME[default]) for name, number, default in _ROWS
}
