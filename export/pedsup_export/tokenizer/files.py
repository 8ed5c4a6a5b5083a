"""The tokenizer files of a model folder, or of an adapter's: read once, with their digests.

Trainers save the tokenizer beside the adapter. What a model was trained with is what it must be
run with: where that tokenizer or its chat template differs from the base's, it is exported, and
the difference is reported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypedDict, cast

from pedsup.errors import BadFileError, UnsupportedError
from pedsup.files.json_file import decode_text, parse_json, read_bounded
from pedsup_export.tokenizer.chat_template import CONFIG, ChatTemplates, read_templates


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


DOCUMENT: Final = "tokenizer.json"
SENTENCEPIECE: Final = "tokenizer.model"
MAX_TOKENIZER: Final = 1 << 28
"""Bytes of tokenizer.json; Gemma 4's has 15 million."""
MAX_CONFIG: Final = 1 << 24
MAX_ID: Final = 1 << 24


@dataclass(frozen=True)
class Tokenizer:
    """The parsed files of a tokenizer folder.

    Attributes:
        document: tokenizer.json.
        config: tokenizer_config.json, {} when there is none.
        model_config: config.json of the model.
        sentencepiece: tokenizer.model as it is; None when there is none.
        digests: SHA-256 of the bytes that were read, by file name.
        notes: what the user should know: which files were chosen, and how they differ.
    """

    folder: Path
    document: TokenizerDocument
    config: dict[str, object]
    model_config: dict[str, object]
    templates: ChatTemplates = field(default_factory=ChatTemplates)
    digests: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    sentencepiece: bytes | None = field(default=None, repr=False)
    text: str = field(default="", repr=False)
    """tokenizer.json as it is, for the tokenizers library."""

    @property
    def vocab(self) -> dict[str, int]:
        """Token -> id, added tokens included."""
        added = {token["content"]: token["id"] for token in self.document.get("added_tokens", [])}
        return {**self.document["model"]["vocab"], **added}


class _Reader:
    """Reads files of one folder and keeps their digests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.digests: dict[str, str] = {}

    def data(self, path: Path, limit: int) -> bytes:
        """A file's bytes."""
        data = read_bounded(path, f"the file {path.name}", limit)
        self.digests[path.relative_to(self.folder).as_posix()] = hashlib.sha256(data).hexdigest()
        return data

    def text(self, path: Path, limit: int) -> str:
        """A UTF-8 text with newlines as Python reads them, without a byte order mark."""
        data = self.data(path, limit)
        try:
            return decode_text(data).replace("\r\n", "\n").replace("\r", "\n")
        except ValueError as error:
            raise _unreadable(path, error) from error

    def object(self, path: Path) -> dict[str, object]:
        """A JSON object."""
        try:
            value = parse_json(self.text(path, MAX_CONFIG))
        except ValueError as error:
            raise _unreadable(path, error) from error
        if not isinstance(value, dict):
            raise _unreadable(path, "not an object")
        return value


def _unreadable(path: Path, why: object) -> BadFileError:
    return BadFileError(
        f"{path.name} cannot be read: {why}", where=path, remedy="copy the file of the model again"
    )


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer files of a base folder.

    Raises:
        BadFileError: tokenizer.json is missing or damaged.
        UnsupportedError: another kind of tokenizer.
    """
    if not (folder / DOCUMENT).is_file():
        raise BadFileError(
            "the base has no tokenizer.json",
            where=folder,
            wanted="the tokenizer files beside the weights",
            remedy="copy tokenizer.json and tokenizer_config.json of the base model there",
        )
    read = _Reader(folder)
    text = read.text(folder / DOCUMENT, MAX_TOKENIZER)
    document = _document(text, folder / DOCUMENT)
    config = read.object(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    templates = read_templates(folder, config, read.text, read.object)
    # config.json of the model is recorded with the weights.
    model = folder / "config.json"
    model_config = _Reader(folder).object(model) if model.is_file() else {}
    return Tokenizer(
        folder,
        document,
        config,
        model_config,
        templates,
        read.digests,
        templates.notes,
        _sentencepiece(read),
        text,
    )


def _sentencepiece(read: _Reader) -> bytes | None:
    path = read.folder / SENTENCEPIECE
    return read.data(path, MAX_CONFIG) if path.is_file() else None


def _document(text: str, path: Path) -> TokenizerDocument:
    try:
        document = parse_json(text)
    except ValueError as error:
        raise _unreadable(path, error) from error
    model = document.get("model") if isinstance(document, dict) else None
    model = model if isinstance(model, dict) else {}
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or model.get("type") != "BPE":
        raise UnsupportedError(
            f"a tokenizer of type {model.get('type')!r:.60}",
            where=path,
            wanted="a BPE tokenizer, as Gemma, Llama 3, Qwen and SmolLM2 have",
        )
    _check_tokens(document, vocab, path)
    return cast(TokenizerDocument, document)  # as far as it was checked


def _check_tokens(document: Mapping[str, object], vocab: Mapping[str, object], path: Path) -> None:
    """Every token a text with a number."""
    added = document.get("added_tokens", [])
    good = isinstance(added, list) and all(
        isinstance(token, dict)
        and isinstance(token.get("content"), str)
        and isinstance(token.get("id"), int)
        for token in added
    )
    if not good or not all(isinstance(i, int) for i in vocab.values()):
        raise BadFileError(
            "the tokenizer has an entry that is not a text with a number",
            where=path,
            remedy="copy tokenizer.json of the base model again",
        )


def overlay(base: Tokenizer, folder: Path) -> Tokenizer | None:
    """`base` with the tokenizer files of an adapter's folder in place of its own.

    Returns:
        None when the folder has none, or files of the same bytes.

    Raises:
        BadFileError, UnsupportedError: a file of the folder cannot be used.
    """
    read, document, text = _Reader(folder), base.document, base.text
    config = read.object(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    templates = read_templates(folder, config, read.text, read.object)
    if (folder / DOCUMENT).is_file():
        text = read.text(folder / DOCUMENT, MAX_TOKENIZER)
        document = _document(text, folder / DOCUMENT) if text != base.text else document
    pieces = _sentencepiece(read)
    if all(base.digests.get(name) == digest for name, digest in read.digests.items()):
        return None
    notes = list(templates.notes)
    if base.templates.found and not templates.found:
        notes.append("the adapter's folder has a tokenizer without a chat template: the base's "
                     "is exported")  # fmt: skip
    return replace(
        base,
        folder=folder,
        document=document,
        text=text,
        sentencepiece=pieces if pieces is not None else base.sentencepiece,
        config=config or base.config,
        templates=templates if templates.found else base.templates,
        digests={**base.digests, **{f"adapter/{n}": d for n, d in read.digests.items()}},
        notes=(*(base.notes if not templates.found else ()), *notes),
    )
