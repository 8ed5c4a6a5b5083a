"""Which tokens stay: those that must, then by frequency, down to the size that was asked for.

Rarest tokens go first, and only those that no kept token is made of. A token that others are made
of goes after the last of them, so the order is that of max(own weight, weights of what it is part
of), and taking tokens in by weight, each with all that it needs, gives the same set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from pedsup.errors import UsageError
from pedsup_export.vocabulary_cut.derivation import Derivations
from pedsup_export.vocabulary_cut.languages import Language, letters_of
from pedsup_export.vocabulary_cut.signs import (
    ACCENTS,
    DIGITS,
    GREEK,
    SIGNS,
    SINGLE,
    is_signs,
    is_white,
)
from pedsup_export.vocabulary_cut.token_list import TokenList

MULTIPLE: Final = 256
"""The number of tokens is a multiple of it: llama.cpp's repacked and tiled kernels take 8, 16 or 32
rows of the output matrix at a time, and fall back to slower ones where rows are left over."""
SHORT: Final = 4
"""Letters of the pieces that are kept for a language without a word list."""


@dataclass(frozen=True)
class Wish:
    """What the choice starts from. All sets hold token ids."""

    must: frozenset[int]
    may: frozenset[int]
    """Tokens that the languages can use; others stay only when the size leaves room."""
    weights: Mapping[int, float]
    size: int | None
    """None: all of `must` and all of `may` that has a weight."""


def required(tokens: TokenList) -> set[int]:
    """Tokens that stay in any cut: ids that software knows, bytes, signs, white space."""
    kept = set(range(tokens.n_reserved)) | tokens.byte_ids
    for i in range(len(tokens.tokens)):
        text = tokens.text(i)
        if tokens.is_marker(i) or (
            text is not None and (text in SINGLE or is_signs(text) or is_white(text))
        ):
            kept.add(i)
    return kept


def usable(tokens: TokenList, languages: Iterable[Language]) -> set[int]:
    """Tokens whose characters the languages use."""
    allowed = letters_of(languages) | SIGNS | DIGITS | GREEK | ACCENTS | set(" \n\t\r")
    found = set()
    for i in range(len(tokens.tokens)):
        text = tokens.text(i)
        if text and allowed.issuperset(text):
            found.add(i)
    return found


def short_pieces(tokens: TokenList, language: Language) -> set[int]:
    """Pieces of a few letters, for a language that has no word list."""
    letters = letters_of((language,)) | {"'", "’"}
    found = set()
    for i in range(len(tokens.tokens)):
        bare = (tokens.text(i) or "").removeprefix(" ")
        if 0 < len(bare) <= SHORT and letters.issuperset(bare) and bare[1:] == bare[1:].lower():
            found.add(i)
    return found


def choose(tokens: TokenList, derivations: Derivations, wish: Wish) -> tuple[int, ...]:
    """The ids that stay, in ascending order; a multiple of `MULTIPLE` where possible.

    Raises:
        UsageError: the size is below what must stay.
    """
    kept = derivations.close(sorted(wish.must))
    ranked = _ranked(tokens, wish)
    size = _size(len(tokens.tokens), kept, wish)
    if size is None:
        for token in (t for t in ranked if t in wish.may and wish.weights.get(t, 0) > 0):
            kept |= derivations.closure(token, kept)
        size = min(-(-len(kept) // MULTIPLE) * MULTIPLE, len(tokens.tokens))
    for token in ranked:
        if len(kept) >= size:
            break
        if token in kept:
            continue
        more = derivations.closure(token, kept)
        if len(kept) + len(more) <= size:
            kept |= more
    if len(kept) == len(tokens.tokens):
        raise UsageError(
            "this vocabulary would not be cut at all",
            wanted=f"a choice that leaves out some of its {len(kept)} tokens",
            remedy="leave --languages and --vocabulary out",
        )
    return tuple(sorted(kept))


def _ranked(tokens: TokenList, wish: Wish) -> list[int]:
    """Heaviest first; without weights by id: a BPE's ids are in the order of its training."""
    order = sorted(wish.may, key=lambda t: (-wish.weights.get(t, 0.0), t))
    return order + [i for i in range(len(tokens.tokens)) if i not in wish.may]


def _size(n_tokens: int, kept: set[int], wish: Wish) -> int | None:
    if wish.size is None:
        return None
    size = wish.size - wish.size % MULTIPLE
    least = -(-len(kept) // MULTIPLE) * MULTIPLE
    if size < least:
        raise UsageError(
            f"a vocabulary of {wish.size} tokens is too small",
            where=f"--vocabulary {wish.size}",
            wanted=f"at least {least}: special tokens, bytes, signs and the kept texts need "
            f"{len(kept)}, in multiples of {MULTIPLE}",
            remedy="give a larger size, or less text with --keep-text",
        )
    if size >= n_tokens:
        raise UsageError(
            f"a vocabulary of {wish.size} tokens cuts nothing",
            where=f"--vocabulary {wish.size}",
            wanted=f"fewer than the {n_tokens} tokens of this model",
            remedy="give a smaller size, or leave --vocabulary and --languages out",
        )
    return size
