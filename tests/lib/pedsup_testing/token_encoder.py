"""Text to token ids by the tokenizer in a GGUF: an oracle for the choice of tokens."""

from __future__ import annotations

import tokenizers as module

from pedsup_export.tokenizer.token_list import CONTROL, USER_DEFINED
from pedsup_export.vocabulary_cut.derivation import split_merge
from pedsup_export.vocabulary_cut.encoder import Encoder
from pedsup_export.vocabulary_cut.token_list import BYTE_LEVEL, SENTENCEPIECE, TokenList


def encoder_of(tokens: TokenList) -> Encoder:
    """Of the tokenizer in a GGUF, with tokenizers' own parts put together as for that kind."""
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
    return Encoder(engine)


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
