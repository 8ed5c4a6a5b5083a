"""The tokenizer of a GGUF as one value: what the cut reads and what it makes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from pedsup.errors import UnsupportedError
from pedsup_export.gguf.header import KV
from pedsup_export.tokenizer.token_list import BYTE, CONTROL, USER_DEFINED

GEMMA4, BYTE_LEVEL, SENTENCEPIECE = "gemma4", "gpt2", "llama"
"""`tokenizer.ggml.model`: BPE over characters, BPE over bytes, merging by scores."""
_NAMED: Final = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
_SPACE: Final = "▁"


@dataclass(frozen=True, eq=False)
class TokenList:
    """Tokens by id, and the rules that put them together."""

    kind: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...] | None
    merges: tuple[str, ...]
    """'left right', the first one first; () for SENTENCEPIECE."""
    special_ids: frozenset[int] = frozenset()
    """Those that the metadata names: bos, eos, padding and so on."""
    python_merges: tuple[str, ...] = ()
    """Merges of tokenizer.json where the GGUF has none: Python's tokenizers use them."""

    @cached_property
    def ids(self) -> dict[str, int]:
        """Token -> id."""
        return {token: i for i, token in enumerate(self.tokens)}

    def text(self, token: int) -> str | None:
        """What a token stands for; None for part of a character (byte-level BPE)."""
        if self.kind != BYTE_LEVEL:
            return self.tokens[token].replace(_SPACE, " ")
        codes = [_BYTE_OF.get(c) for c in self.tokens[token]]
        raw = bytes(code for code in codes if code is not None)
        if len(raw) < len(codes):
            return self.tokens[token]  # an added token stands as it is
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return None

    def is_marker(self, token: int) -> bool:
        """Whether it is a control, user-defined or byte token, or named in the metadata."""
        return self.types[token] in (CONTROL, USER_DEFINED, BYTE) or token in self.special_ids

    @cached_property
    def n_reserved(self) -> int:
        """Tokens at the start that are not text: software knows their ids by number."""
        count = 0
        for i, token in enumerate(self.tokens):
            if not (self.is_marker(i) or _NAMED.fullmatch(token)):
                break
            count += 1
        return count

    @cached_property
    def byte_ids(self) -> frozenset[int]:
        """The tokens that spell any byte."""
        if self.kind == BYTE_LEVEL:
            return frozenset(self.ids[c] for c in _BYTE_OF if c in self.ids)
        return frozenset(i for i, kind in enumerate(self.types) if kind == BYTE)


def _byte_characters() -> dict[str, int]:
    """GPT-2's table: a visible character for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(others)}


_BYTE_OF: Final = _byte_characters()


def token_list(entries: Sequence[KV], python_merges: Sequence[str] = ()) -> TokenList:
    """Read the tokenizer's metadata entries.

    Args:
        entries: as an architecture's `vocabulary` makes them.
        python_merges: the merges of tokenizer.json, used where the GGUF has none.

    Raises:
        UnsupportedError: a tokenizer whose tokens do not come from merges or scores.
    """
    values: dict[str, Any] = {e.key.removeprefix("tokenizer.ggml."): e.value for e in entries}
    kind, merges = values.get("model"), tuple(values.get("merges") or ())
    scores = values.get("scores")
    known = kind in (GEMMA4, BYTE_LEVEL, SENTENCEPIECE)
    if (
        not known
        or (kind == SENTENCEPIECE and scores is None)
        or (kind != SENTENCEPIECE and not merges)
    ):
        raise UnsupportedError(
            f"a tokenizer of kind {kind!r:.40} with {len(merges)} merges",
            wanted="BPE with merges, or SentencePiece with scores",
            remedy="leave --languages and --vocabulary out: this vocabulary cannot be cut",
        )
    tokens = tuple(values["tokens"])
    return TokenList(
        kind=str(kind),
        tokens=tokens,
        types=tuple(values.get("token_type") or [1] * len(tokens)),
        scores=tuple(scores) if scores is not None else None,
        merges=merges,
        special_ids=frozenset(v for k, v in values.items() if k.endswith("_token_id")),
        python_merges=tuple(python_merges) if not merges else (),
    )
