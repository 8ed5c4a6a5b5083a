"""`--vocabulary FILE`: a list of tokens, or a GGUF whose vocabulary is taken over.

The list has one token a line, as the tokenizer spells it (`▁fiebre`), or as a JSON string where
that is needed (`"\\n\\n"`). A GGUF, such as the model that a drafter belongs to, gives its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from pedsup.errors import BadFileError, MismatchError
from pedsup.gguf_file import read_header
from pedsup.gguf_file.cut_vocabulary import BASE_SIZE, base_ids
from pedsup.gguf_file.header import MAGIC
from pedsup.gguf_file.values import ArrayValue
from pedsup_export.vocabulary_cut.token_list import TokenList

MAX_LIST: Final = 64 << 20
_LISTED: Final = 5


def is_gguf(path: Path) -> bool:
    """Whether the file is a GGUF, by its first bytes."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def ids_of_gguf(path: Path, tokens: TokenList) -> tuple[int, ...]:
    """The ids that a cut file kept of this very vocabulary.

    Raises:
        MismatchError: the file's vocabulary is not cut, or was cut from another one.
    """
    header = read_header(path)
    ids = base_ids(header)
    if ids is None:
        raise MismatchError(
            "the vocabulary of this file was not cut",
            where=path,
            wanted="a file that was exported with --languages or --vocabulary",
        )
    listed = header.metadata["tokenizer.ggml.tokens"]
    theirs = listed.values() if isinstance(listed, ArrayValue) else []
    mine = [tokens.tokens[i] for i in ids if i < len(tokens.tokens)]
    if header.get(BASE_SIZE) != len(tokens.tokens) or mine != theirs:
        raise MismatchError(
            "the vocabulary of this file was cut from another one",
            where=path,
            wanted="a file of the same model family",
        )
    return tuple(ids)


def ids_of_list(path: Path, tokens: TokenList) -> set[int]:
    """The ids of the tokens that a text file lists.

    Raises:
        BadFileError: too large, not UTF-8, not JSON where it should be, or unknown tokens.
    """
    if path.stat().st_size > MAX_LIST:
        raise BadFileError(f"a list of {path.stat().st_size} bytes", where=path)
    found, unknown = set[int](), []
    for number, line in enumerate(_lines(path), 1):
        if not line:
            continue
        try:
            token = json.loads(line) if line[0] == '"' and len(line) > 1 else line
        except ValueError as error:
            raise BadFileError(
                f"line {number} is not valid JSON: {line[:60]!r}",
                where=path,
                wanted='a token, or a JSON string such as "\\n"',
            ) from error
        token_id = tokens.ids.get(token)
        if token_id is None:
            unknown.append(f"{token!r:.40} (line {number})")
        else:
            found.add(token_id)
    if unknown:
        more = f" and {len(unknown) - _LISTED} more" if len(unknown) > _LISTED else ""
        raise BadFileError(
            f"{len(unknown)} of the listed tokens are not in the vocabulary: "
            f"{', '.join(unknown[:_LISTED])}{more}",
            where=path,
            wanted="tokens as the tokenizer spells them, with ▁ for a space",
            remedy="give words and sentences with --keep-text instead",
        )
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise BadFileError("the list is not UTF-8", where=path, wanted="UTF-8 text") from error
