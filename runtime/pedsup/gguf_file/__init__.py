"""Read and check a GGUF file in pure Python, before any native code sees it."""

from pedsup.gguf_file.ggml_types import GGML_TYPES, GGMLType
from pedsup.gguf_file.header import GGUFHeader, read_header
from pedsup.gguf_file.tensor_table import TensorInfo
from pedsup.gguf_file.values import ArrayValue, ValueType

__all__ = [
    "GGML_TYPES",
    "ArrayValue",
    "GGMLType",
    "GGUFHeader",
    "TensorInfo",
    "ValueType",
    "read_header",
]
