"""Model architectures: one module each, listed here. A new one is one new module and one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pedsup.errors import UnsupportedError
from pedsup_export.arch import gemma3, gemma4, gemma4_assistant, llama, qwen
from pedsup_export.arch.base import Architecture, Dropped, ModelTensors, OutputTensor

__all__ = ["ARCHITECTURES", "Architecture", "Dropped", "ModelTensors", "OutputTensor", "find"]

ARCHITECTURES: Final[tuple[Architecture, ...]] = (
    gemma4.ARCHITECTURE,
    gemma4_assistant.ARCHITECTURE,
    gemma3.ARCHITECTURE,
    llama.ARCHITECTURE,
    *qwen.ARCHITECTURES,
)


def find(config: Mapping[str, Any], where: object) -> Architecture:
    """The architecture of a Hugging Face `config.json`.

    Raises:
        UnsupportedError: not a supported architecture; the message lists those that are.
    """
    names = config.get("architectures") or []
    for architecture in ARCHITECTURES:
        if any(name in architecture.hf_names for name in names):
            return architecture
    supported = ", ".join(n for a in ARCHITECTURES for n in a.hf_names)
    raise UnsupportedError(
        f"a model of the architecture {', '.join(map(str, names)) or 'unknown'}",
        where=where,
        wanted=f"one of {supported}",
    )
