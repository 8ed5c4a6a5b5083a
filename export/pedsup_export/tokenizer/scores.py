"""Tokens with scores, by which SentencePiece (and llama.cpp for Gemma 3) merges them.

Texts, types and scores are those of `_create_vocab_sentencepiece` in llama.cpp's converter
(conversion/base.py): pieces from tokenizer.model, the added tokens over them. Added tokens are
taken from tokenizer.json, which every version of transformers writes; the converter takes them
from `added_tokens_decoder` in tokenizer_config.json, which transformers 5 leaves out, and then
reads `<start_of_turn>` as plain text.

Where a folder has no tokenizer.model (transformers 5 does not save it), the scores come from the
merges of tokenizer.json: the first merge has the highest. For Gemma 3's vocabulary that gives each
merged token the number of its tokenizer.model; those of single characters, which nothing merges,
are 31 higher.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from pedsup.errors import MismatchError, UnsupportedError
from pedsup_export.tokenizer.files import DOCUMENT, SENTENCEPIECE, Tokenizer
from pedsup_export.tokenizer.sentencepiece import USER_DEFINED, Piece, read_pieces
from pedsup_export.tokenizer.token_list import NORMAL, TokenList, sentencepiece_kinds, token_list

ADDED_SCORE: Final = -1000.0
PADDING_SCORE: Final = -10000.0


def scored_tokens(tokenizer: Tokenizer, n_tokens: int) -> tuple[TokenList, list[float]]:
    """Tokens, and a float32 score for each.

    Raises:
        BadFileError: tokenizer.model is damaged.
        MismatchError: tokenizer.model and tokenizer.json name different tokens.
        UnsupportedError: a tokenizer that does not spell unknown characters in bytes.
    """
    if not tokenizer.document["model"].get("byte_fallback"):
        raise UnsupportedError(
            "a tokenizer without byte fallback",
            where=tokenizer.folder / DOCUMENT,
            wanted="a SentencePiece tokenizer, as Gemma 3 has",
        )
    added = {t["id"] for t in tokenizer.document.get("added_tokens", [])}
    tokens = token_list(tokenizer, n_tokens, sentencepiece_kinds)
    numbers = set(tokenizer.vocab.values())
    if tokenizer.sentencepiece is None:
        own = _scores_of_merges(tokenizer, tokens)
    else:
        pieces = read_pieces(tokenizer.sentencepiece, tokenizer.folder / SENTENCEPIECE)
        _check_same(tokenizer, tokens, pieces, added)
        own = {i: piece.score for i, piece in enumerate(pieces)}
        tokens = replace(tokens, types=_piece_types(tokens, pieces, added))
    scores = [
        ADDED_SCORE if i in added else own.get(i, 0.0) if i in numbers else PADDING_SCORE
        for i in range(n_tokens)
    ]
    return tokens, scores


def _check_same(
    tokenizer: Tokenizer, tokens: TokenList, pieces: list[Piece], added: set[int]
) -> None:
    """Both files must mean the same tokens: one was used in training, the other will be run."""
    plain = [i for i in tokenizer.vocab.values() if i not in added]
    n_plain = min(max(len(pieces), max(plain, default=-1) + 1), len(tokens.texts))
    theirs = [piece.text for piece in pieces] + [None] * (n_plain - len(pieces))
    wrong = [i for i in range(n_plain) if i not in added and theirs[i] != tokens.texts[i]]
    if wrong:
        i = wrong[0]
        raise MismatchError(
            f"{SENTENCEPIECE} and {DOCUMENT} differ in {len(wrong)} tokens: token {i} is "
            f"{theirs[i]!r:.40} and {tokens.texts[i]!r:.40}",
            where=tokenizer.folder,
            wanted="tokenizer files of one model",
            remedy=f"copy both files of the base model again, or remove {SENTENCEPIECE}: "
            f"{DOCUMENT} says all that is needed",
        )


def _piece_types(tokens: TokenList, pieces: list[Piece], added: set[int]) -> list[int]:
    """Types of the file, but for added tokens; user-defined pieces are plain ones there."""
    kinds = list(tokens.types)
    for i, piece in enumerate(pieces[: len(kinds)]):
        if i not in added:
            kinds[i] = NORMAL if piece.kind == USER_DEFINED else piece.kind
    return kinds


def _scores_of_merges(tokenizer: Tokenizer, tokens: TokenList) -> dict[int, float]:
    """Minus the place of each plain token: merged ones in the order of their merges, then the
    others by number.
    """
    first: dict[str, int] = {}
    for place, merge in enumerate(tokenizer.document["model"].get("merges") or []):
        parts = merge if isinstance(merge, list) else str(merge).split(" ", 1)
        first.setdefault("".join(map(str, parts)), place)
    plain = [i for i, kind in enumerate(tokens.types) if kind == NORMAL]
    plain.sort(key=lambda i: (first.get(tokens.texts[i], math.inf), i))
    return {i: -float(place) for place, i in enumerate(plain)}
