"""Texts that a file is calibrated or judged on: read, and told apart.

A text that decided how a file was rounded says nothing about how good the file is. So both stages
read texts with this module, and look for runs of words that occur in both.
"""

from __future__ import annotations

import base64
import hashlib
import re
import unicodedata
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pedsup.errors import BadFileError, MissingFileError

MAX_BYTES: Final = 64 << 20
SHINGLE: Final = 12
"""A run of this many words in both texts is an overlap."""
SHORT_LINE: Final = 8
"""A line of at least this many words, and too few for a run, is compared as a whole. What is
shorter could be guessed from its digest."""
FEWEST_LINES, LINES_SHARE = 3, 0.1
"""So many short lines, and this share of a text's, must be in both: "Which of the following is
the most likely cause?" stands in many."""
DIGEST: Final = 8
"""Bytes of a run's digest."""
SKETCH: Final = 2048
"""Digests kept of a text: 22 KB in base64."""

_INVISIBLE: Final = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
"""Soft hyphens, zero-width and direction marks: they would cut a word in two."""


@dataclass(frozen=True)
class Text:
    """A named text; where files are judged, the name (usually a language) heads its figures."""

    name: str
    content: str

    @property
    def sha256(self) -> str:
        """SHA-256 of the text in UTF-8."""
        return hashlib.sha256(self.content.encode("utf-8")).hexdigest()


def read_text(path: Path, option: str, most: int = MAX_BYTES) -> str:
    """The text of a file; a byte order mark is not part of it.

    Args:
        option: what named the file, for the message.
        most: bytes that are read at most.

    Raises:
        MissingFileError, BadFileError: missing, too large, or not UTF-8.
    """
    if not path.is_file():
        raise MissingFileError("no such file", where=path, remedy=f"check {option}")
    if path.stat().st_size > most:
        raise BadFileError(
            f"a text of {path.stat().st_size} bytes",
            where=path,
            wanted=f"at most {most}",
            remedy="cut it: a few hundred thousand tokens are plenty",
        )
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadFileError("the text is not UTF-8", where=path, wanted="UTF-8 text") from error


def windows(tokens: Sequence[int], n_ctx: int, bos: int | None) -> list[list[int]]:
    """Whole windows of `n_ctx` tokens; the first token of each is replaced by bos.

    As llama.cpp's `llama-perplexity` and `llama-imatrix` cut them; the rest of the text is left
    out.
    """
    cut = [list(tokens[at : at + n_ctx]) for at in range(0, len(tokens) - n_ctx + 1, n_ctx)]
    for window in cut:
        if bos is not None:
            window[0] = bos
    return cut


def folded(text: str) -> str:
    """A text without what tells apart those that look the same, to compare it.

    Case, invisible characters, and how accents are encoded: a text saved on another system is the
    same text.
    """
    return unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).casefold()


def shingles(content: str) -> set[bytes]:
    """Digests (8 bytes) of every run of `SHINGLE` words, punctuation and `folded` apart."""
    words = re.findall(r"\w+", folded(content))
    runs = (" ".join(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1))
    return {hashlib.blake2b(run.encode(), digest_size=DIGEST).digest() for run in runs}


def short_lines(content: str) -> set[bytes]:
    """Digests of the lines that are too short for a run of `SHINGLE` words."""
    lines = (re.findall(r"\w+", line) for line in folded(content).splitlines())
    short = (" ".join(line) for line in lines if SHORT_LINE <= len(line) < SHINGLE)
    return {hashlib.blake2b(line.encode(), digest_size=DIGEST).digest() for line in short}


def passages(content: str) -> set[bytes]:
    """Digests of a text's runs of words and of its short lines."""
    return shingles(content) | short_lines(content)


def shared(known: Set[bytes], content: str, highest: bytes | None = None) -> int:
    """How many passages of a text are among known ones.

    Args:
        known: digests of `passages`.
        highest: the highest digest of which it is known whether it is among them; None: of all.
    """
    lines = {line for line in short_lines(content) if highest is None or line <= highest}
    same = len(known & lines)
    enough = same >= max(FEWEST_LINES, LINES_SHARE * len(lines))
    return len(known & shingles(content)) + (same if enough else 0)


def sketch(content: str) -> str:
    """The passages of a text in little space: the `SKETCH` lowest digests, in base64.

    Of a longer text this is a sample that any other text draws in the same way, so that a shared
    passage of some hundred words is found without the text itself.
    """
    lowest = sorted(passages(content))[:SKETCH]
    return base64.b64encode(b"".join(lowest)).decode()


def shared_with_sketch(content: str, text: str) -> int:
    """How many passages of `content` a sketch holds; 0 for what is not a sketch."""
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        return 0
    known = {raw[at : at + DIGEST] for at in range(0, len(raw) - DIGEST + 1, DIGEST)}
    return shared(known, content, max(known) if len(known) >= SKETCH else None)
