"""Text to token ids in Python: Hugging Face's tokenizers, from tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from pedsup.optional import require
from pedsup_export.tokenizer.files import TokenizerDocument

BATCH: Final = 20_000
"""Texts tokenized at a time: their results take a few hundred bytes each."""


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

    def encode_all(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Ids of each text, a batch at a time on all cores."""
        for at in range(0, len(texts), BATCH):
            batch = list(texts[at : at + BATCH])
            for found in self._engine.encode_batch_fast(batch, add_special_tokens=False):
                yield found.ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special ones included."""
        text: str = self._engine.decode(list(ids), skip_special_tokens=False)
        return text
