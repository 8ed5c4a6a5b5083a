"""Logits of a GGUF at every position, a few rows at a time, through llama.cpp's low-level calls.

The runtime's engines give out tokens; judging a file needs whole distributions. One row of
Gemma 4 is 262144 floats (1 MiB), so rows are handed out in slices and never kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pedsup.chat.templates.template import ChatTemplate
from pedsup.engine.llama_cpp.evaluation import EvaluatedModel, Evaluation
from pedsup.engine.llama_cpp.kv_cache import common_prefix
from pedsup.errors import EngineError, UsageError

ROWS: Final = 16
"""Rows of logits handed out at a time: 16 MiB for Gemma 4's vocabulary, twice that in float64."""
DECODE_ROWS: Final = 64
"""Rows of logits that llama.cpp computes at a time: fewer would cost more passes over the weights,
and more waiting of its threads for one another."""
N_BATCH: Final = 512

FloatRows = NDArray[np.float32]


class LogitModel(EvaluatedModel):
    """A model loaded for evaluation only: one sequence, full-size cache, no sampling.

    Args:
        cache_f32: keep keys and values in float32 and not, as usual, in float16.
        adapter: the GGUF of a LoRA adapter to apply to it.

    Raises:
        BadFileError, UnsupportedError: it is not a model that pedsup runs.
        MismatchError: the adapter does not belong to it.
        EngineError: llama.cpp cannot load the file.
    """

    removed: NDArray[np.float64] | None = None
    """Probability of tokens that were cut, float64 [rows], of the rows given last; None: no cut."""

    def __init__(
        self,
        path: Path,
        *,
        n_ctx: int,
        n_threads: int,
        cache_f32: bool = False,
        adapter: Path | None = None,
    ) -> None:
        self.n_ctx = n_ctx
        self._cached: list[int] = []
        super().__init__(
            path,
            Evaluation(
                n_ctx, N_BATCH, n_threads, n_outputs=DECODE_ROWS, cache_f32=cache_f32,
                full_cache=True, adapter=adapter, too_much="give fewer tokens of context (--ctx)",
            ),
        )  # fmt: skip

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids; `add_special` adds bos where the vocabulary asks for it."""
        return self.vocabulary.tokenize(text, parse_special=parse_special, add_special=add_special)

    def chat_template(self, *, allow_unknown: bool = False) -> ChatTemplate:
        """The model's own chat template.

        Raises:
            UnsupportedError: it has none, or one that is not known and not allowed.
        """
        return ChatTemplate.from_model(
            self.info.chat_template, allow_unknown=allow_unknown, bos=self.piece(self.bos)
        )

    def window_logits(self, tokens: Sequence[int], first: int) -> Iterator[FloatRows]:
        """Logits at the positions `first`, ..., len(tokens) - 1 of a fresh sequence.

        Yields:
            float32 [rows, n_vocab], at most `ROWS` rows, valid until the next one is asked for.
        """
        self._rewind(0)
        self._feed(tokens[:first])
        for at in range(first, len(tokens), DECODE_ROWS):
            part = tokens[at : at + DECODE_ROWS]
            self._decode(part, outputs=len(part))
            rows = self._rows(len(part))
            for row in range(0, len(part), ROWS):
                yield rows[row : row + ROWS]

    def next_logits(self, tokens: Sequence[int]) -> FloatRows:
        """Logits of the token after `tokens`; the part it shares with the last call is reused.

        Returns:
            float32 [n_vocab], valid until the next call.
        """
        if len(tokens) > self.n_ctx:
            raise UsageError(
                f"a prompt of {len(tokens)} tokens", wanted=f"at most {self.n_ctx} tokens"
            )
        self._rewind(min(common_prefix(self._cached, tokens), len(tokens) - 1))
        self._feed(tokens[len(self._cached) : -1])
        self._decode(tokens[-1:], outputs=1)
        row: FloatRows = self._rows(1)[0]
        return row

    def read_only(self, tokens: Sequence[int]) -> None:
        """Read a prompt from its start and forget it, to take its time."""
        self._rewind(0)
        self._feed(tokens)
        self._rewind(0)

    def _rewind(self, n: int) -> None:
        if n == 0:
            self.forget()
        elif not self.shorten(n):
            raise EngineError("llama.cpp cannot shorten its cache", where=self.path)
        del self._cached[n:]

    def _feed(self, tokens: Sequence[int]) -> None:
        for at in range(0, len(tokens), N_BATCH):
            self._decode(tokens[at : at + N_BATCH], outputs=0)

    def _decode(self, tokens: Sequence[int], *, outputs: int) -> None:
        """Append `tokens`; the last `outputs` of them give logits."""
        if not tokens:
            return
        n = len(tokens)
        self.compute(tokens, len(self._cached), range(n - outputs, n))
        self._cached.extend(tokens)

    def _rows(self, n: int) -> FloatRows:
        return np.ctypeslib.as_array(self.logits_address, shape=(n, self.n_vocab))
