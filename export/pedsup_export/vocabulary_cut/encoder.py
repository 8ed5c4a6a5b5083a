"""Text to token ids in Python: Hugging Face's tokenizers, from tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pedsup.optional import require
from pedsup_export.tokenizer.files import TokenizerDocument

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH: Final = 20_000
"""Texts tokenized at a time: their results take a few hundred bytes each."""
LINE: Final = 256
"""Words of a list that are tokenized as one text: its result costs more than the tokenizing."""


class Encoder:
    """Token ids of plain text, without bos."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        engine.no_truncation()
        engine.no_padding()

    @classmethod
    def from_document(cls, document: TokenizerDocument) -> Encoder:
        """Of a tokenizer.json."""
        engine = require("tokenizers", extra="export").Tokenizer
        return cls(engine.from_str(json.dumps(document)))

    def encode(self, text: str) -> list[int]:
        """Ids of one text."""
        ids: list[int] = self._engine.encode(text, add_special_tokens=False).ids
        return ids

    def encode_all(self, texts: Sequence[str], batch: int = BATCH) -> Iterator[list[int]]:
        """Ids of each text, a batch at a time on all cores."""
        for at in range(0, len(texts), batch):
            some = list(texts[at : at + batch])
            for found in self._engine.encode_batch_fast(some, add_special_tokens=False):
                yield found.ids

    def encode_words(self, words: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids of many short texts, the same as of each alone.

        They are tokenized a line at a time, with newlines between them. Where each of these is a
        token of its own, no merge went across it. BPE then merged each word as if it were alone.

        Returns:
            The ids of all words, one after the other, and how many each word has: int64.
        """
        lines = [words[at : at + LINE] for at in range(0, len(words), LINE)]
        texts = ["\n".join(line) for line in lines]
        ids, sizes = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for line, text, found in zip(
            lines, texts, self.encode_all(texts, BATCH // LINE), strict=True
        ):
            row = np.asarray(found, dtype=np.int64)
            ends = np.flatnonzero(row == self._newline)
            if len(ends) == text.count("\n") == len(line) - 1:
                ids.append(np.delete(row, ends))
                sizes.append(np.diff(ends, prepend=-1, append=len(row)) - 1)
                continue
            for alone in self.encode_all(line):
                ids.append(np.asarray(alone, dtype=np.int64))
                sizes.append(np.asarray([len(alone)], dtype=np.int64))
        return np.concatenate(ids), np.concatenate(sizes)

    @cached_property
    def _newline(self) -> int:
        """The token that a newline alone gives; -1 where it gives another text or several."""
        ids = self.encode("\n")
        return ids[0] if len(ids) == 1 and self.decode(ids) == "\n" else -1

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special ones included."""
        text: str = self._engine.decode(list(ids), skip_special_tokens=False)
        return text
