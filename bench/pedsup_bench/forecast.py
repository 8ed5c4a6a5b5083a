"""How long a measurement will take: a guess from the file's header, then a short measured rate.

Reading a prompt is arithmetic, two operations per weight and token; writing a token is one pass
over the weights. What a core can do is assumed: right within a factor of three or so on the
machines we have seen, and 80 times too fast where llama.cpp was built without vector units. So
what is announced is the rate of a few tokens, read when the model is loaded.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final

from pedsup.gguf_file import GGUFHeader
from pedsup.memory.shape import PER_LAYER_TABLE
from pedsup.progress import say
from pedsup_bench.traffic import traffic

OPERATIONS_PER_S: Final = {"x86": 40e9, "arm": 15e9}
"""Of one core."""
BYTES_PER_S: Final = {"x86": 10e9, "arm": 8e9}
"""Memory bandwidth that decoding gets."""
STORAGE_BYTES_PER_S: Final = 1e9
WORTH_SAYING_S: Final = 5.0
PROBE_TOKENS: Final = 16
"""Of the prompt that is timed: a phone reads them in a second or two."""


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

    def corrected(self, prompt: float) -> Rates:
        """With a measured time per prompt token; decoding is off by as much, at the most."""
        return Rates(prompt, self.decode * max(1.0, prompt / self.prompt), self.load)


def seconds_per_token(read: Callable[[Sequence[int]], object]) -> float:
    """The time of a prompt token, of a loaded model that `read`s a prompt.

    The first prompt maps the file and is not counted. The second has another first token, so that
    nothing of it is in a cache.
    """
    read([0] * PROBE_TOKENS)
    started = perf_counter()
    read([1] * PROBE_TOKENS)
    return (perf_counter() - started) / PROBE_TOKENS


def human_seconds(seconds: float) -> str:
    """'40 s', '3 min', '2 h 10 min': a guess deserves no more digits."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def announce(what: str, seconds: float, by: str = "by the speed of a short prompt") -> None:
    """Say on stderr what comes and roughly how long it takes, unless it is short."""
    if seconds >= WORTH_SAYING_S:
        say(f"{what}: roughly {human_seconds(seconds)}, {by}")
