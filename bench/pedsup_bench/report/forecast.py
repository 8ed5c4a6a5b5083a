"""How long a measurement will take: from a short measured rate, or a guess that is said to be one.

What a core can do differs by a factor of a hundred between builds of llama.cpp, so where a model
is loaded anyway, part of the work is timed (`seconds_per_token`). A guess is made only where
nothing may be loaded (`--dry-run`) and as the first value of bars, which learn: reading a prompt
is arithmetic, two operations per weight and token; writing a token is one pass over the weights.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final

from pedsup.gguf_file import GGUFHeader
from pedsup.gguf_file.shape import PER_LAYER_TABLE
from pedsup.phones.traffic import traffic
from pedsup.progress import say

OPERATIONS_PER_S: Final = {"x86": 40e9, "arm": 15e9}
"""Of one core."""
BYTES_PER_S: Final = {"x86": 10e9, "arm": 8e9}
"""Memory bandwidth that decoding gets."""
STORAGE_BYTES_PER_S: Final = 1e9
WORTH_SAYING_S: Final = 5.0
FIRST_PART: Final = 8
"""Tokens."""
LONG_ENOUGH_S: Final = 0.25


@dataclass(frozen=True)
class Rates:
    """Seconds per prompt token, per decoded token, and per load."""

    prompt: float
    decode: float
    load: float

    @classmethod
    def guess(cls, header: GGUFHeader, n_threads: int) -> Rates:
        """From a file's header alone."""
        kind = "arm" if platform.machine().lower().startswith(("aarch64", "arm")) else "x86"
        # A per-layer table is looked up, not multiplied.
        weights = sum(t.n_elements for name, t in header.tensors.items() if name != PER_LAYER_TABLE)
        return cls(
            prompt=2 * weights / (n_threads * OPERATIONS_PER_S[kind]),
            decode=traffic(header).weights / BYTES_PER_S[kind],
            load=0.5 + header.file_size / STORAGE_BYTES_PER_S,
        )


CHARACTERS_PER_TOKEN: Final = 4
"""Of English and Spanish text, about."""


def human_seconds(seconds: float) -> str:
    """'40 s', '3 min', '2 h 10 min': a guess deserves no more digits."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def seconds_per_token(
    read: Callable[[Sequence[int]], object],
    tokens: Sequence[int],
    clock: Callable[[], float] = monotonic,
) -> float:
    """The time of one token, measured on parts of `tokens` that double until one took long enough.

    Args:
        read: does the work on some of the tokens; it is called at least twice, because the first
            call also brings the weights into memory.
        tokens: at least `FIRST_PART` of them.
    """
    read(tokens[:FIRST_PART])
    n = min(2 * FIRST_PART, len(tokens))
    while True:
        start = clock()
        read(tokens[:n])
        took = clock() - start
        if took >= LONG_ENOUGH_S or n == len(tokens):
            return took / n
        n = min(2 * n, len(tokens))


def announce(what: str, seconds: float) -> None:
    """Say on stderr what comes next and roughly how long it takes, unless it is short."""
    if seconds >= WORTH_SAYING_S:
        say(f"{what}: roughly {human_seconds(seconds)}, by a short measurement")
