"""How often each token is used in a language: from word lists, and from texts.

The lists are those of `wordfreq` (Robyn Speer; its data under CC BY-SA 4.0). They are read when a
vocabulary is cut and are not part of pedsup.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final

import numpy as np

from pedsup.optional import require
from pedsup_export.vocabulary_cut.encoder import Encoder
from pedsup_export.vocabulary_cut.languages import Language

Form = Callable[[str], str]
FORMS: Final[tuple[tuple[float, Form], ...]] = (
    (0.80, lambda word: f" {word}"),
    (0.10, lambda word: f" {word[:1].upper()}{word[1:]}"),
    (0.06, lambda word: word),
    (0.02, lambda word: word[:1].upper() + word[1:]),
    (0.02, lambda word: f" {word.upper()}"),
)
"""How a word of the list, which is in lower case, appears in text, and how often (a rough share:
only the order of rare tokens depends on it); without a space after a hyphen or a bracket."""
ACRONYM_FORMS: Final[tuple[tuple[float, Form], ...]] = (
    (0.80, lambda word: f" {word.upper()}"),
    (0.10, lambda word: word.upper()),
)
"""The same, beside those, for what is written in capitals; the list has it in lower case."""
LONGEST_ACRONYM: Final = 6
RAREST: Final = 2e-8
"""Share of a word in one form below which it is left out: three in four of the list, one word in
two hundred of text."""
MAX_TEXT: Final = 256 << 20
SHIPPED: Final = (
    ("pedsup_bench", "data/pediatric_en.txt"),
    ("pedsup_bench", "data/pediatric_es.txt"),
    ("pedsup_bench", "data/questions.jsonl"),
    ("pedsup_train", "data/demo_pairs.jsonl"),
)
"""Texts of this project: their tokens are kept, so that its measurements stay comparable."""


@dataclass(frozen=True)
class TokenWeights:
    """Share of each token in the text of one language (they sum to 1)."""

    language: Language
    shares: Mapping[int, float]

    def lost(self, kept: frozenset[int]) -> float:
        """Share of tokens that fall to smaller pieces when only `kept` stay."""
        return sum(share for token, share in self.shares.items() if token not in kept)


def word_weights(language: Language, encoder: Encoder) -> TokenWeights | None:
    """Token shares by the language's word list; None where it has none.

    Raises:
        MissingDependencyError: `wordfreq` is not installed.
    """
    if language.words is None:
        return None
    words: Mapping[str, float] = require("wordfreq", extra="vocabulary").get_frequency_dict(
        language.words, wordlist="best"
    )
    frequent = [word for word, share in words.items() if share * ACRONYM_FORMS[0][0] >= RAREST]
    capitals = {word: words[word] for word in acronyms(frequent, encoder)}
    ids, weights = [], []
    for forms, some in ((FORMS, words), (ACRONYM_FORMS, capitals)):
        for weight, form in forms:
            used = {word: s for word, share in some.items() if (s := share * weight) >= RAREST}
            found, sizes = encoder.encode_words([*map(form, used)])
            ids.append(found)
            weights.append(np.repeat(np.fromiter(used.values(), np.float64, len(used)), sizes))
    counts = np.bincount(np.concatenate(ids), np.concatenate(weights))
    shares = counts / counts.sum()
    return TokenWeights(language, {t: float(shares[t]) for t in np.flatnonzero(shares).tolist()})


def acronyms(words: Iterable[str], encoder: Encoder) -> list[str]:
    """Short words that the tokenizer's own text had in capitals more often than in small letters.

    A BPE's ids are in the order of its training: in capitals the word is one token, and in small
    letters none, or a later one.
    """
    short = [word for word in words if 2 <= len(word) <= LONGEST_ACRONYM and word.isalpha()]
    capitals = _single(short, [f" {word.upper()}" for word in short], encoder)
    small = _single(list(capitals), [f" {word}" for word in capitals], encoder)
    return [word for word, token in capitals.items() if token < small.get(word, token + 1)]


def _single(words: Sequence[str], texts: Sequence[str], encoder: Encoder) -> dict[str, int]:
    """Word -> token, for those whose text is one token."""
    ids, sizes = encoder.encode_words(texts)
    starts = np.cumsum(sizes) - sizes
    return {words[i]: int(ids[starts[i]]) for i in np.flatnonzero(sizes == 1).tolist()}


def text_counts(texts: Iterable[str], encoder: Encoder) -> Counter[int]:
    """How often each token occurs in texts."""
    counts: Counter[int] = Counter()
    for ids in encoder.encode_all([line for text in texts for line in text.splitlines(True)]):
        counts.update(ids)
    return counts


def shipped_texts() -> dict[str, str]:
    """File name -> content of the texts that come with pedsup."""
    return {
        name.rpartition("/")[2]: (resources.files(package) / name).read_text("utf-8")
        for package, name in SHIPPED
    }


def clinical_terms() -> list[str]:
    """Words of child health, English and Spanish, that come with pedsup: in lower case."""
    return _listed("clinical_terms.txt")


def clinical_names() -> list[str]:
    """Names of organisms, diseases, medicines, tests and institutions, as they are written."""
    return _listed("clinical_names.txt")


def _listed(name: str) -> list[str]:
    text = (resources.files(__package__) / name).read_text("utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return list(dict.fromkeys(word for line in lines for word in line.split()))
