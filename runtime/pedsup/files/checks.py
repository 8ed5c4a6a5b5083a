"""What a value of a record must be beyond its type, for `Annotated`: see `pedsup.files.records`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from pedsup.messages import message

V = TypeVar("V")


@dataclass(frozen=True)
class Check(Generic[V]):
    """A condition, and how an error names it."""

    holds: Callable[[V], bool]
    wanted: str


def within(low: float, high: float) -> Check[float]:
    """From `low` to `high`, both included."""
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


Sha256 = Annotated[str, matching("[0-9a-f]{64}", message("a SHA-256: 64 hex digits in lower case"))]
Count = Annotated[int, at_least(0)]
NotEmpty = Annotated[
    str, Check[str](lambda value: bool(value.strip()), message("text that is not empty"))
]
