"""What it costs to run a model whose weights do not all fit: bytes read again, and a speed bound.

A decoded token reads every weight once, always in the same order. Under a limit the kernel drops
the page that was not used for the longest time, which in a cycle is just the one that is needed
next: measured on a model of 664 MB under a limit that leaves 460 MB of it, 545 MB are read again
for each token, and not the 200 MB that are missing. So:

- llama-server: all weights are counted as read again for each token.
- in this process: `pedsup.engine.llama_cpp.streaming` keeps a fixed part in memory and lets the
  same layers go after each use; what is read again is the missing part and a window of two
  layers (283 MB).

With very little room pages are read more than once per token, program code among them (measured:
1.1 times the weights at 84 MiB of room, 1.4 times at 53, 2 times at 43, 4 times at 23).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pedsup.memory.estimate import MemoryEstimate
from pedsup.messages import message
from pedsup.progress import human_bytes

SLACK: Final = 24 << 20
"""Bytes kept for what no estimate covers: page tables, readahead, other pages of the process."""
LEAST_PAGES: Final = 24 << 20
"""Bytes of mapped pages that are indispensable: program, libraries, the pages in use."""
CROWDED: Final = 90 << 20
"""Bytes of mapped pages below which some are read again within one token."""
PATIENCE: Final = 0.5
"""Tokens/s that storage must allow: an answer of 200 tokens then takes at most seven minutes."""


@dataclass(frozen=True)
class Paging:
    """Running from storage. Bytes, bytes per second, tokens per second."""

    missing: int
    """Bytes of weights that do not fit."""
    read_per_token: int
    """Weights read from storage again for each token."""
    resident: int
    """Bytes of the mapped model that may stay in memory, beside a draft model's."""
    rate: float | None
    """Of the storage, measured or from a profile; None if it is not known."""

    @property
    def speed(self) -> float | None:
        """Most tokens/s that the storage allows; computing comes on top."""
        return self.rate / self.read_per_token if self.rate is not None else None

    @property
    def bearable(self) -> bool:
        """Whether it may start without the user asking for it."""
        return self.speed is not None and self.speed >= PATIENCE

    @property
    def text(self) -> str:
        """What it costs, in one sentence."""
        cost = message(
            "{missing} of the weights do not fit into memory: about {read} are "
            "read from storage again for each token",
            missing=human_bytes(self.missing),
            read=human_bytes(self.read_per_token),
        )
        if self.rate is None or self.speed is None:
            return message("{cost}, at a speed that could not be measured", cost=cost)
        return message(
            "{cost}; at {rate} MB/s that is at most {speed} tokens/s",
            cost=cost,
            rate=f"{self.rate / 1e6:.0f}",
            speed=f"{self.speed:.2g}",
        )


def paging(
    need: MemoryEstimate, available: int, *, streamed: bool, rate: float | None
) -> Paging | None:
    """The cost of running with `available` bytes; None if it fits, or if it cannot be run at all.

    Args:
        streamed: layers are let go by plan (the engine in this process), not by the kernel.
        rate: of the storage in bytes per second.
    """
    if need.total <= available or not need.mapped or need.anonymous + LEAST_PAGES > available:
        return None
    missing, room = need.total - available, available - need.anonymous
    # A draft model's pages stay as well as they can: only the model's own layers are let go.
    read = need.file_backed
    if streamed:
        # Kept are whole layers, beside a window of two for the one in use and the next.
        read = min(need.file_backed, missing + SLACK + 2 * need.largest_layer)
    again = max(1.0, CROWDED / room)
    return Paging(missing, int(read * again), max(0, room - SLACK - need.draft_weights), rate)
