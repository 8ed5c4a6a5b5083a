"""What the user asked for of the vocabulary."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pedsup.errors import UsageError
from pedsup.files.paths import from_user
from pedsup_export.vocabulary_cut.languages import Language, parse_languages

DEFAULT_SIZE: Final = 96_000
"""Tokens when only languages are given: 99.9 % of English and Spanish words keep their tokens
(docs/vocabulary.md)."""
_SIZE: Final = re.compile(r"(\d+)(k?)", re.IGNORECASE)


@dataclass(frozen=True)
class VocabularyRequest:
    """`--languages`, `--vocabulary` and `--keep-text`."""

    languages: tuple[Language, ...] = ()
    size: int | None = None
    file: Path | None = None
    """A list of tokens, or a GGUF whose vocabulary is taken over."""
    keep_texts: tuple[Path, ...] = ()


def vocabulary_request(
    languages: str | None, vocabulary: str | None, keep_texts: tuple[Path, ...] = ()
) -> VocabularyRequest | None:
    """Read the options; None when the vocabulary stays whole.

    Raises:
        UsageError: an unknown language, a size without languages, a text without a cut.
    """
    if languages is None and vocabulary is None:
        if keep_texts:
            raise UsageError(
                "--keep-text has no effect without --languages or --vocabulary",
                remedy="for example --languages es,en --keep-text notes.txt",
            )
        return None
    size, file = parse_vocabulary(vocabulary)
    if languages is None and file is None:
        raise UsageError(
            "a size alone does not say which tokens to keep",
            where=f"--vocabulary {vocabulary}",
            wanted="the languages too",
            remedy=f"for example --languages es,en --vocabulary {vocabulary}",
        )
    found = parse_languages(languages) if languages is not None else ()
    return VocabularyRequest(found, size, file, keep_texts)


def parse_vocabulary(text: str | None) -> tuple[int | None, Path | None]:
    """A number of tokens (`96000`, `96k`), or a file."""
    if text is None:
        return None, None
    if (match := _SIZE.fullmatch(text.strip())) is None:
        path = from_user(text)
        if not path.is_file():
            raise UsageError(
                f"'{text}' is neither a number of tokens nor a file",
                where="--vocabulary",
                wanted="a size such as 96k, a list of tokens, or a GGUF with a cut vocabulary",
            )
        return None, path
    return int(match[1]) * (1000 if match[2] else 1), None
