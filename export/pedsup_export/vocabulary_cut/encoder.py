"""Text to token ids in Python: Hugging Face's tokenizers, from tokenizer.json or a token list."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from pedsup.optional import require
from pedsup_export.tokenizer.document import TokenizerDocument
from pedsup_export.tokenizer.token_list import CONTROL, USER_DEFINED
from pedsup_export.vocabulary_cut.derivation import split_merge
from pedsup_export.vocabulary_cut.token_list import BYTE_LEVEL, SENTENCEPIECE, TokenList

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

    @classmethod
    def from_tokens(cls, tokens: TokenList) -> Encoder:
        """Of the tokenizer in a GGUF, with tokenizers' own parts put together as for that kind."""
        module = require("tokenizers", extra="export")
        spelled = tokens.kind != BYTE_LEVEL
        scored = tokens.kind == SENTENCEPIECE
        merges = _merges_by_score(tokens) if scored else [split_merge(m) for m in tokens.merges]
        model = module.models.BPE(
            vocab=tokens.ids, merges=merges, byte_fallback=spelled, fuse_unk=spelled,
            unk_token="<unk>" if "<unk>" in tokens.ids else None,
        )  # fmt: skip
        engine = module.Tokenizer(model)
        decoders = module.decoders
        if spelled:
            engine.normalizer = module.normalizers.Replace(" ", "▁")
            engine.decoder = decoders.Sequence(
                [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
            )
        else:
            engine.pre_tokenizer = module.pre_tokenizers.ByteLevel(add_prefix_space=False)
            engine.decoder = decoders.ByteLevel()
        engine.add_tokens(
            [
                module.AddedToken(text, normalized=False)
                for text, kind in zip(tokens.tokens, tokens.types, strict=True)
                if kind in (CONTROL, USER_DEFINED)
            ]
        )
        return cls(engine)

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


def _merges_by_score(tokens: TokenList) -> list[tuple[str, str]]:
    """SentencePiece's rule as merges: every pair that makes a token, ranked by its score.

    Of one token's pairs that which has the earlier tokens comes first, as transformers'
    `generate_merges` has it.
    """
    assert tokens.kind == SENTENCEPIECE and tokens.scores is not None
    found = []
    for token, number in tokens.ids.items():
        score = tokens.scores[number]
        for at in range(1, len(token)):
            left, right = tokens.ids.get(token[:at]), tokens.ids.get(token[at:])
            if left is not None and right is not None:
                found.append((-score, left, right, token[:at], token[at:]))
    found.sort()
    return [(left, right) for *_, left, right in found]
