"""How pictures are prepared: preprocessor_config.json and processor_config.json."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Final

from pedsup.errors import BadFileError, UnsupportedError
from pedsup.files.source import read_json_object

FILES: Final = ("preprocessor_config.json", "processor_config.json")
"""The second wins where both say something, as in llama.cpp's converter."""
_MAX_JSON: Final = 1 << 20
_CHANNELS: Final = 3


def read_processor(folders: tuple[Path, ...]) -> dict[str, object]:
    """Both files of the first folder that has one of them, as one object.

    Raises:
        UnsupportedError: no folder has one.
        BadFileError: a file is not a JSON object.
    """
    for folder in folders:
        paths = [folder / name for name in FILES if (folder / name).is_file()]
        merged: dict[str, object] = {}
        for path in paths:
            values = read_json_object(path, path.name, _MAX_JSON)
            inner = values.get("image_processor")
            merged |= {**values, **(inner if isinstance(inner, dict) else {})}
        if paths:
            return merged
    raise UnsupportedError(
        "the base has no processor_config.json and no preprocessor_config.json",
        wanted="one of them: it says how a picture is scaled",
        remedy="download the whole folder of the base",
    )


def channels(processor: Mapping[str, object], key: str) -> list[float]:
    """A number for each of red, green and blue.

    Raises:
        BadFileError: it is missing, or something else.
    """
    value = processor.get(key)
    numbers = [v for v in value if isinstance(v, int | float) and not isinstance(v, bool)] \
        if isinstance(value, list) else []  # fmt: skip
    if len(numbers) != _CHANNELS or value != numbers or not all(map(isfinite, numbers)):
        raise BadFileError(
            f"'{key}' is {value!r:.60}",
            where="the processor's configuration of the base",
            wanted=f"{_CHANNELS} numbers",
            remedy="use the processor_config.json that belongs to the weights",
        )
    return [float(n) for n in numbers]
