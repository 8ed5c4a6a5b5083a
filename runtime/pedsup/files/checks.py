"""What a value of a record must be beyond its type, for `Annotated`: see `pedsup.files.records`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final, Generic, TypeVar

from pedsup.messages import message

V = TypeVar("V")
MAX_NAME: Final = 200
"""Bytes of a file's name: file systems take 255, and the partial file has a longer one."""


@dataclass(frozen=True)
class Check(Generic[V]):
    """A condition, and how an error names it."""

    holds: Callable[[V], bool]
    wanted: str


def within(low: float, high: float) -> Check[float]:
    return Check(
        lambda value: low <= value <= high,
        message("from {low} to {high}", low=f"{low:.12g}", high=f"{high:.12g}"),
    )


def at_least(low: float) -> Check[float]:
    """`low` or more."""
    return Check(lambda value: value >= low, message("{low} or more", low=f"{low:.12g}"))


def matching(pattern: str, wanted: str) -> Check[str]:
    """Text that a regular expression matches as a whole."""
    compiled = re.compile(pattern)
    return Check(lambda value: compiled.fullmatch(value) is not None, wanted)


def file_name(suffix: str = "") -> Check[str]:
    """A name that stays in its folder, hides nothing, and leaves room for a partial file's."""
    plain = re.compile(r"[^/\\\x00-\x1f.][^/\\\x00-\x1f]*" + re.escape(suffix))
    return Check(
        lambda name: plain.fullmatch(name) is not None and len(os.fsencode(name)) <= MAX_NAME,
        message("the name of a file, without a folder"),
    )


Sha256 = Annotated[str, matching("[0-9a-f]{64}", message("a SHA-256: 64 hex digits in lower case"))]
Count = Annotated[int, at_least(0)]
Size = Annotated[int, within(0, 1 << 62)]
"""Bytes of a file or a part of one: sums of a few of them still have 64 bits."""
FileName = Annotated[str, file_name()]
NotEmpty = Annotated[
    str, Check[str](lambda value: bool(value.strip()), message("text that is not empty"))
]
