"""How a token comes about from its characters, and which tokens that needs.

BPE merges, again and again, the adjacent pair of the lowest rank, the leftmost of equals. If a
text's tokens are all kept, then every merge on the way happened inside one of them, in the same
order as in that token alone. So when the pieces of each kept token's own derivation are kept too,
the cut tokenizer, whose merges are those among kept tokens, makes the same choice at every step:
the full one's best pair is still there, and no new pair was added. The same holds for
SentencePiece in llama.cpp, which ranks a pair by the score of the token that it makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

from pedsup_export.vocabulary_cut.token_list import SENTENCEPIECE, TokenList

Rank = Callable[[str, str], float | None]
Pair = tuple[str, str]


def split_merge(merge: str) -> Pair:
    """The two parts of 'left right', as llama.cpp splits them: a part may start with a space."""
    at = merge.index(" ", 1)
    return merge[:at], merge[at + 1 :]


def last_pair(token: str, rank: Rank) -> Pair | None:
    """The two pieces that the last merge joins into `token`.

    None for a single character, and for a token that its own text does not lead to.
    """
    parts = list(token)
    if len(parts) < 2:
        return None
    ranks = [rank(a, b) for a, b in pairwise(parts)]
    while len(parts) > 2:
        best, at = None, -1
        for i, value in enumerate(ranks):
            if value is not None and (best is None or value < best):
                best, at = value, i
        if best is None:
            return None
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        del ranks[at]
        if at > 0:
            ranks[at - 1] = rank(parts[at - 1], parts[at])
        if at + 1 < len(parts):
            ranks[at] = rank(parts[at], parts[at + 1])
    return (parts[0], parts[1]) if ranks[0] is not None else None


class Derivations:
    """The pieces that tokens need, found when they are asked for."""

    def __init__(self, tokens: TokenList) -> None:
        self._tokens, self._ids = tokens.tokens, tokens.ids
        self._ranks = [merge_rank(m) for m in (tokens.merges, tokens.python_merges) if m]
        if tokens.kind == SENTENCEPIECE:
            self._ranks.append(score_rank(tokens))
        self._needs: dict[int, frozenset[int]] = {}

    def needs(self, token: int) -> frozenset[int]:
        """The pieces of a token's last merge."""
        found = self._needs.get(token)
        if found is None:
            text, pieces = self._tokens[token], set[int]()
            for rank in self._ranks:
                for part in last_pair(text, rank) or ():
                    # A character without a token of its own is spelled in bytes.
                    if (piece := self._ids.get(part)) is not None:
                        pieces.add(piece)
            found = self._needs[token] = frozenset(pieces)
        return found

    def closure(self, token: int, kept: set[int] | frozenset[int] = frozenset()) -> set[int]:
        """A token and all that it needs, down to characters, beside what is in `kept`."""
        found, todo = set[int](), [token]
        while todo:
            one = todo.pop()
            if one not in found and one not in kept:
                found.add(one)
                todo.extend(self.needs(one))
        return found

    def close(self, tokens: Iterable[int]) -> set[int]:
        """Tokens and all that they need."""
        kept = set[int]()
        for token in tokens:
            kept |= self.closure(token, kept)
        return kept


def merge_rank(merges: Iterable[str]) -> Rank:
    """Rank of a pair by its place in a list of merges; of equal ones the first counts.

    The merges themselves are the keys: pairs of their parts would take 200 MB for Gemma 4.
    """
    ranks: dict[str, int] = {}
    for number, merge in enumerate(merges):
        ranks.setdefault(merge, number)
    # A space inside the left part would be taken for the one between the parts.
    return lambda left, right: ranks.get(f"{left} {right}") if " " not in left[1:] else None


def score_rank(tokens: TokenList) -> Rank:
    """Rank of a pair by the score of the token that it makes, the highest first."""
    assert tokens.scores is not None
    ranks = {t: -s for t, s in zip(tokens.tokens, tokens.scores, strict=True)}
    return lambda left, right: ranks.get(left + right)
