"""What is in llama.cpp's cache, and how to get back to an earlier point of it.

Layers with a sliding window keep only the last `n_swa` + `n_ubatch` positions. Going back
further than that window (a new turn drops the reasoning of the last one) would re-read the whole
prompt: llama.cpp #13194. A copy of the window's state at the end of each prompt, a few tens of
megabytes, makes the step back exact; the full-attention layers still hold every position.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Final

PARTIAL_ONLY: Final = 1
"""LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY: the window layers' state without the full-attention one."""
MAX_CHECKPOINTS: Final = 2
"""Besides the pinned one: the ends of the last two prompts."""


@dataclass(frozen=True)
class _Checkpoint:
    n_tokens: int
    pos_min: int
    data: ctypes.Array[ctypes.c_uint8]
    pinned: bool


def common_prefix(a: Sequence[object], b: Sequence[object]) -> int:
    """How many items two sequences begin with alike."""
    n = min(len(a), len(b))
    if list(a[:n]) == list(b[:n]):
        return n
    return next(i for i in range(n) if a[i] != b[i])


class KVCache:
    """The tokens of sequence 0 of a context, kept in step with llama.cpp's memory."""

    def __init__(self, lib: ModuleType, ctx: int, *, n_swa: int) -> None:
        self.tokens: list[int] = []
        self._lib, self._ctx, self.n_swa = lib, ctx, n_swa
        self._memory = lib.llama_get_memory(ctx)
        self._checkpoints: list[_Checkpoint] = []

    def clear(self) -> None:
        """Forget everything."""
        self._lib.llama_memory_clear(self._memory, False)
        self.tokens.clear()
        self._checkpoints.clear()

    def checkpoint(self, *, pinned: bool = False) -> None:
        """Remember the window layers' state at the current end, if the model has such layers."""
        if not self.n_swa:
            return
        size = self._lib.llama_state_seq_get_size_ext(self._ctx, 0, PARTIAL_ONLY)
        data = (ctypes.c_uint8 * size)()
        written = self._lib.llama_state_seq_get_data_ext(self._ctx, data, size, 0, PARTIAL_ONLY)
        if written != size:
            return
        # llama.cpp leaves out what the window has passed, whatever else is still in memory.
        pos_min = max(self._pos_min(), len(self.tokens) - self.n_swa)
        new = _Checkpoint(len(self.tokens), pos_min, data, pinned)
        others = [c for c in self._checkpoints if c.n_tokens != new.n_tokens]
        kept = [c for c in others if c.pinned]
        recent = [c for c in others if not c.pinned]
        self._checkpoints = kept + recent[-(MAX_CHECKPOINTS - 1) :] + [new]

    def rewind(self, n_tokens: int) -> int:
        """Cut the cache to its first `n_tokens`, or fewer if the window does not reach back.

        Returns:
            The number of tokens kept; the caller reads the rest.
        """
        n_tokens = min(n_tokens, len(self.tokens))
        if n_tokens == len(self.tokens):
            return n_tokens
        if n_tokens and not self._reaches(self._pos_min(), n_tokens):
            n_tokens = self._restore(n_tokens)
        self._checkpoints = [c for c in self._checkpoints if c.n_tokens <= n_tokens]
        if not n_tokens or not self._lib.llama_memory_seq_rm(self._memory, 0, n_tokens, -1):
            self.clear()
            return 0
        del self.tokens[n_tokens:]
        return n_tokens

    def _pos_min(self) -> int:
        return int(self._lib.llama_memory_seq_pos_min(self._memory, 0))

    def _reaches(self, pos_min: int, n_tokens: int) -> bool:
        """Whether a window that starts at `pos_min` holds all that token `n_tokens` looks at."""
        return 0 <= pos_min <= max(0, n_tokens - self.n_swa) if self.n_swa else True

    def _restore(self, n_tokens: int) -> int:
        """Bring back the best checkpoint for a cut at `n_tokens`; the cut that it allows."""
        usable = [
            (min(c.n_tokens, n_tokens), c)
            for c in self._checkpoints
            if self._reaches(c.pos_min, min(c.n_tokens, n_tokens))
        ]
        for cut, point in sorted(usable, key=lambda pair: -pair[0]):
            read = self._lib.llama_state_seq_set_data_ext(
                self._ctx, point.data, len(point.data), 0, PARTIAL_ONLY
            )
            if read == len(point.data):
                return cut
        return 0
