"""The towers of a multimodal checkpoint as llama.cpp's projector file: names, sizes, types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from pedsup.errors import UnsupportedError
from pedsup_export.arch.base import Shape
from pedsup_export.arch.gemma_text import is_tower
from pedsup_export.projector import gemma3, gemma4
from pedsup_export.projector.base import TYPES, Towers, flattened
from pedsup_export.projector.processor import read_processor

__all__ = ["TYPES", "Towers", "find_towers", "flattened", "place_towers"]

_Make = Callable[[Mapping[str, object], Mapping[str, object], Mapping[str, Shape] | None], Towers]
_MODULES: Final[Mapping[str, _Make]] = {"gemma3": gemma3.towers, "gemma4": gemma4.towers}
"""By llama.cpp's name of the text model's architecture."""


def find_towers(
    architecture: str,
    config: Mapping[str, object],
    shapes: Mapping[str, Shape],
    folders: tuple[Path, ...],
) -> tuple[Towers | None, tuple[str, ...]]:
    """The towers that a projector file can hold, and what to say where it cannot.

    Args:
        architecture: llama.cpp's name of the text model's architecture.
        config: config.json.
        shapes: shape by name of every tensor of the checkpoint.
        folders: where the processor's configuration may lie; the first that has one is taken.

    Raises:
        BadFileError, MismatchError: configuration and tensors do not fit together.
    """
    found = [name for name in shapes if is_tower(name)]
    if not found:
        return None, ()
    try:
        towers = place_towers(architecture, config, read_processor(folders), shapes)
    except UnsupportedError as error:
        wanted = f" (wanted: {error.wanted})" if error.wanted else ""
        return None, (f"no projector is written for {len(found)} tower tensors: "
                      f"{error.found}{wanted}",)  # fmt: skip
    return towers, towers.notes


def place_towers(
    architecture: str,
    config: Mapping[str, object],
    processor: Mapping[str, object],
    shapes: Mapping[str, Shape] | None,
) -> Towers:
    """The towers of a checkpoint, with the merged configuration of its processor.

    Args:
        shapes: None for what follows from the configuration alone (`projector.base.place`).

    Raises:
        UnsupportedError: no projector is written for them.
        BadFileError, MismatchError: configuration and tensors do not fit together.
    """
    make = _MODULES.get(architecture)
    if make is None:
        raise UnsupportedError(f"towers beside a model of the architecture {architecture}")
    return make(config, processor, shapes)
