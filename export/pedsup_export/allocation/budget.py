"""`--budget`: a size, bits per weight, or that of one of llama.cpp's mixtures; or a phone's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pedsup.errors import UsageError
from pedsup.gguf_file.file_types import FILE_TYPES

_UNITS: Final = {
    "": 1, "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9,
    "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30,
}  # fmt: skip


@dataclass(frozen=True)
class Budget:
    """One of: bytes of the file, bits per weight, a file type whose size is the budget, or bytes
    that are read for every token."""

    n_bytes: int | None = None
    bits_per_weight: float | None = None
    like: str | None = None
    read_bytes: int | None = None
    why: str = ""
    """Of a phone's: which, and what bounds it."""


def parse_size(text: str, where: str) -> int:
    """Bytes of `3.5GB`, `400MiB` or a plain number.

    Raises:
        UsageError: not a size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(found[2].upper()) if found else None
    if found is None or unit is None:
        raise UsageError(f"'{text}' is not a size", where=where, wanted="for example 3.5GB or 4MiB")
    return int(float(found[1]) * unit)


def parse_budget(text: str) -> Budget:
    """Read `--budget`.

    Raises:
        UsageError: neither a size, bits per weight, nor a file type.
    """
    if text.upper() in FILE_TYPES:
        return Budget(like=text.upper())
    bits = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*bpw\s*", text, re.IGNORECASE)
    if bits:
        return Budget(bits_per_weight=float(bits[1]))
    try:
        return Budget(n_bytes=parse_size(text, "--budget"))
    except UsageError as error:
        raise UsageError(
            f"'{text}' is not a budget",
            where="--budget",
            wanted="a size (3.5GB), bits per weight (4.5bpw) or a file type (Q4_K_M)",
        ) from error
