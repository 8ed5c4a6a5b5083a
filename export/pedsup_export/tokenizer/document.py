"""tokenizer.json as far as an export looks at it; `files` checks tokens and their numbers."""

from __future__ import annotations

from typing import TypedDict


class AddedToken(TypedDict, total=False):
    """A token beside the vocabulary proper, or marked in it."""

    content: str
    id: int
    special: bool
    normalized: bool


class BpeModel(TypedDict, total=False):
    """Tokens with their numbers, and the merges as 'left right' or as pairs."""

    type: str
    vocab: dict[str, int]
    merges: list[str | list[str]] | None
    byte_fallback: bool


class NamedPart(TypedDict, total=False):
    """What a part of a template names."""

    id: str


class TemplatePart(TypedDict, total=False):
    """A special token, or the place of a text."""

    SpecialToken: NamedPart
    Sequence: NamedPart


class PostProcessor(TypedDict, total=False):
    """What is put around a text."""

    type: str
    processors: list[PostProcessor]
    single: list[TemplatePart]
    pair: list[TemplatePart]


class TokenizerDocument(TypedDict, total=False):
    """The whole file."""

    model: BpeModel
    added_tokens: list[AddedToken]
    post_processor: PostProcessor | None
