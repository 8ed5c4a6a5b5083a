"""Notices when a model has stopped saying anything new.

Small quantized models fall into loops, and some conversions loop on `<unused49>` (ollama
#17459). Three signs, each cheap enough for every token:

- the last tokens are one sequence over and over (exact period up to 64 tokens);
- of the 3-grams of the last 512 tokens, hardly any is new;
- several tokens in a row that no training text contains.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from typing import Final, Literal, TypeAlias

Loop: TypeAlias = Literal["repetition", "unused"]

MAX_PERIOD: Final = 64
MIN_REPEATS: Final = 4
MIN_SPAN: Final = 48
"""Tokens: a row of dashes or a short list of zeros is not a loop yet."""
WINDOW: Final = 512
NGRAM: Final = 3
MIN_DISTINCT: Final = 0.25
"""Measured on word tokens: Spanish clinical text 0.7 and more, dose tables 0.4, numbered lists of
one sentence pattern 0.33, one short sentence with a counter 0.17 to 0.25."""
UNUSED_RUN: Final = 4
UNUSED: Final = re.compile(rb"<(unused|reserved_special_token_|pad|unk|mask)\d*>")


class Watchdog:
    """Feed it every generated token; it says when to stop."""

    def __init__(self) -> None:
        self._recent: deque[int] = deque(maxlen=MAX_PERIOD)
        self._run = [0] * (MAX_PERIOD + 1)
        """For each period p: how many tokens in a row equal the one p before them."""
        self._grams: deque[tuple[int, ...]] = deque()
        self._counts: Counter[tuple[int, ...]] = Counter()
        self._unused = 0

    @staticmethod
    def is_unused(piece: bytes) -> bool:
        """Whether a token's text is a placeholder of the vocabulary, never text for a reader."""
        return piece[:1] == b"<" and UNUSED.fullmatch(piece) is not None

    def feed(self, token: int, piece: bytes) -> Loop | None:
        """Note a token; what kind of loop it completes, if any."""
        self._unused = self._unused + 1 if self.is_unused(piece) else 0
        if self._unused >= UNUSED_RUN:
            return "unused"
        periodic = self._periodic(token)
        return "repetition" if self._stale() or periodic else None

    def _periodic(self, token: int) -> bool:
        found = False
        run = self._run
        for period, earlier in enumerate(reversed(self._recent), start=1):
            if earlier != token:
                run[period] = 0
                continue
            run[period] += 1
            # `run` equal pairs make a span of run + period tokens.
            if run[period] >= max(MIN_SPAN, (MIN_REPEATS - 1) * period):
                found = True
        self._recent.append(token)
        return found

    def _stale(self) -> bool:
        if len(self._recent) < NGRAM:
            return False
        gram = tuple(self._recent[i] for i in range(-NGRAM, 0))
        self._grams.append(gram)
        self._counts[gram] += 1
        if len(self._grams) <= WINDOW:
            return False
        oldest = self._grams.popleft()
        self._counts[oldest] -= 1
        if not self._counts[oldest]:
            del self._counts[oldest]
        return len(self._counts) < MIN_DISTINCT * WINDOW
