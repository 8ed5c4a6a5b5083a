"""How often each token is used in a language: from word lists, and from texts.

The lists are those of `wordfreq` (Robyn Speer; its data under CC BY-SA 4.0). They are read when a
vocabulary is cut and are no part of pedsup.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from pedsup.errors import BadFileError, MissingFileError
from pedsup.optional import require
from pedsup_export.vocabulary_cut.encoder import Encoder
from pedsup_export.vocabulary_cut.languages import Language

Form = Callable[[str], str]
FORMS: Final[tuple[tuple[float, Form], ...]] = (
    (0.80, lambda word: f" {word}"),
    (0.10, lambda word: f" {word[:1].upper()}{word[1:]}"),
    (0.02, lambda word: word),
    (0.02, lambda word: word[:1].upper() + word[1:]),
    (0.02, lambda word: f" {word.upper()}"),
)
"""How a word of the list, which is in lower case, stands in text, and how often (a rough share:
only the order of rare tokens depends on it)."""
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
    counts: Counter[int] = Counter()
    for weight, form in FORMS:
        texts = [word for word, share in words.items() if share * weight >= RAREST]
        for word, ids in zip(texts, encoder.encode_all([*map(form, texts)]), strict=True):
            share = words[word] * weight
            for token in ids:
                counts[token] += share  # type: ignore[assignment]
    total = sum(counts.values())
    return TokenWeights(language, {token: n / total for token, n in counts.items()})


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
    """Words of child health, English and Spanish, that come with pedsup."""
    text = (resources.files(__package__) / "clinical_terms.txt").read_text("utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return list(dict.fromkeys(word for line in lines for word in line.split()))


def read_text(path: Path) -> str:
    """A text of the user's.

    Raises:
        MissingFileError, BadFileError: missing, too large, or not UTF-8.
    """
    if not path.is_file():
        raise MissingFileError("no such file", where=path, remedy="check --keep-text")
    if path.stat().st_size > MAX_TEXT:
        raise BadFileError(
            f"a text of {path.stat().st_size} bytes", where=path, wanted=f"at most {MAX_TEXT}"
        )
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadFileError("the text is not UTF-8", where=path, wanted="UTF-8 text") from error
