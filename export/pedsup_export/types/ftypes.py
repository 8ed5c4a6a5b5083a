"""The file types that `--quant` names."""

from __future__ import annotations

from typing import Final

from pedsup.errors import UsageError
from pedsup.gguf_file.file_types import FILE_TYPES, FileType

_ALIASES: Final = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}


def file_type(name: str) -> FileType:
    """The file type that a user's `--quant` means; case does not matter, llama.cpp's aliases work.

    Raises:
        UsageError: no such type; the message lists those there are.
    """
    upper = name.upper()
    found = FILE_TYPES.get(_ALIASES.get(upper, upper))
    if found is None:
        raise UsageError(
            f"unknown quantization '{name}'",
            where="--quant",
            wanted=", ".join(FILE_TYPES),
            remedy="Q4_K_M is the usual choice for a phone",
        )
    return found
