"""Read and check a GGUF header in pure Python, before any native code sees the file."""

from pedsup.gguf_file.ggml_types import GGML_TYPES, GGMLType
from pedsup.gguf_file.header import (
    ArrayValue,
    GGUFHeader,
    TensorInfo,
    ValueType,
    read_header,
)

__all__ = [
    "GGML_TYPES",
    "ArrayValue",
    "GGMLType",
    "GGUFHeader",
    "TensorInfo",
    "ValueType",
    "read_header",
]
