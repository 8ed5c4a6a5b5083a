"""llama.cpp's own programs and converter, built once per user from the llama-cpp-python sdist.

They are the oracle: the commit is the one that the Python bindings pin, and the libraries are the
package's own. `make native` builds them (pedsup_tools.llama_cpp_programs); the tests call
`source()` and `tool(name)` and skip with a remedy when absent.
"""

from __future__ import annotations

from pathlib import Path

from pedsup.engine.vector_units import VERSION
from pedsup_tools.llama_cpp_programs import BIN, OPTIONS, ROOT, fetch

__all__ = ["BIN", "OPTIONS", "ROOT", "VERSION", "fetch", "source", "tool"]


def source() -> Path | None:
    """The llama.cpp source tree with `convert_hf_to_gguf.py`, or None when not fetched."""
    path = ROOT / "src"
    return path if (path / "convert_hf_to_gguf.py").is_file() else None


def tool(name: str) -> Path | None:
    """The path of one native program, or None when not built."""
    path = BIN / name
    return path if path.is_file() else None
