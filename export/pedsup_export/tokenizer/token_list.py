"""The list of tokens of a model, one for every row of its embeddings; made here and nowhere else.

Texts and types are those of llama.cpp's official converter (conversion/base.py and gguf-py's
LlamaHfVocab at 0c1e57098). One thing differs on purpose: a token that `tokenizer.json` itself marks
as special is a control token even where `tokenizer_config.json` forgets to name it; llama.cpp would
otherwise read a `<|turn>` of the chat template as plain text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from pedsup.errors import BadFileError
from pedsup.optional import require
from pedsup_export.tokenizer.files import MAX_ID, AddedToken, Tokenizer
from pedsup_export.tokenizer.special_tokens import NAMED, text_of

NORMAL, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 3, 4, 5, 6
_BYTE_TOKEN: Final = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@dataclass(frozen=True)
class TokenList:
    """The tokens of a model: one text and one of llama.cpp's types for every row.

    Attributes:
        notes: rows without a token, tokens without a row.
    """

    texts: list[str] = field(repr=False)
    types: list[int] = field(repr=False)
    notes: tuple[str, ...] = ()


_Kinds = dict[int, tuple[str, int]]
"""Text and type by token number."""
KindsOf = Callable[[Tokenizer, dict[int, str], dict[int, Any]], _Kinds]
"""(tokenizer, texts by number, added tokens by number) -> texts and types."""


def token_list(tokenizer: Tokenizer, n_tokens: int, kind_of: KindsOf | None = None) -> TokenList:
    """One token for every row of the embeddings; the only place where the list is made.

    A row without a token gets a name of its own and the type UNUSED, as llama.cpp's converter
    fills byte-level vocabularies. An added token without a row is left out, as its converter does:
    the model cannot have been trained with it.

    Args:
        kind_of: texts and types; by default those of gguf-py's LlamaHfVocab or of the
            converter's get_vocab_base, whichever the tokenizer's kind asks for.

    Raises:
        BadFileError: a number that stands twice, or a token of the vocabulary proper (not an added
            one) without a row.
    """
    by_id = _by_id(tokenizer)
    added = {t["id"]: t for t in tokenizer.document.get("added_tokens", [])}
    lost = sorted(i for i in by_id if i >= n_tokens)
    if not added.keys() >= set(lost):
        raise BadFileError(
            f"the tokenizer has {max(by_id) + 1} tokens, the embeddings have {n_tokens} rows",
            where=tokenizer.folder / "tokenizer.json",
            wanted="a row for every token",
            remedy="give tokenizer and weights of one model",
        )
    if kind_of is None:
        fallback = tokenizer.document["model"].get("byte_fallback")
        kind_of = _byte_fallback_kinds if fallback else _byte_level_kinds
    known = kind_of(tokenizer, {i: t for i, t in by_id.items() if i < n_tokens}, added)
    notes = []
    if n_empty := _fill(known, n_tokens):
        notes.append(f"{n_empty} of {n_tokens} rows of the embeddings have no token in the "
                     "tokenizer: written as unused")  # fmt: skip
    if lost:
        listed = ", ".join(repr(by_id[i])[:40] for i in lost[:4])
        notes.append(f"{len(lost)} added tokens of the tokenizer have no row in the embeddings "
                     f"({listed}): left out")  # fmt: skip
    rows = [known[i] for i in range(n_tokens)]
    return TokenList([text for text, _ in rows], [kind for _, kind in rows], tuple(notes))


def _fill(known: _Kinds, n_tokens: int) -> int:
    """Give rows without a token a name of their own; their number."""
    empty = [i for i in range(n_tokens) if i not in known]
    taken = {text for text, _ in known.values()}
    known.update({i: (_padding(i, taken), UNUSED) for i in empty})
    return len(empty)


def _padding(number: int, taken: set[str]) -> str:
    """The converter's name for a row without a token, made unique."""
    text = f"[PAD{number}]"
    return text if text not in taken else f"[PAD{number}]_"


def _by_id(tokenizer: Tokenizer) -> dict[int, str]:
    by_id: dict[int, str] = {}
    for text, number in tokenizer.vocab.items():
        if isinstance(number, bool) or not 0 <= number < MAX_ID or number in by_id:
            raise BadFileError(
                f"token {text!r} has the id {number!r}",
                where=tokenizer.folder / "tokenizer.json",
                wanted="each id once, from 0 up",
            )
        by_id[number] = text
    return by_id


def _byte_fallback_kinds(
    tokenizer: Tokenizer, by_id: dict[int, str], added: dict[int, AddedToken]
) -> _Kinds:
    """Texts and types as gguf-py's LlamaHfVocab gives them."""
    special = special_token_texts(tokenizer)
    n_base = len(tokenizer.document["model"]["vocab"])
    kinds: _Kinds = {}
    for i, text in by_id.items():
        if i < n_base and _BYTE_TOKEN.fullmatch(text):
            kinds[i] = text, BYTE
        elif text in special:
            kinds[i] = text, CONTROL
        else:
            kinds[i] = text, NORMAL if i < n_base else USER_DEFINED
    return kinds


def _byte_level_kinds(
    tokenizer: Tokenizer, by_id: dict[int, str], added: dict[int, AddedToken]
) -> _Kinds:
    """Texts and types as the converter's get_vocab_base gives them."""
    library = engine(tokenizer)
    kinds: _Kinds = {}
    for i, content in by_id.items():
        text, kind = content, NORMAL
        if i in added:
            if not added[i].get("normalized"):
                ids = library.encode(text, add_special_tokens=False).ids
                text = library.decode(ids, skip_special_tokens=False)
            looks_special = added[i].get("special") or _looks_special(text)
            kind = CONTROL if looks_special else USER_DEFINED
            if kind == USER_DEFINED:
                text = text.replace("▁", " ")
        kinds[i] = text, kind
    return kinds


def sentencepiece_kinds(
    tokenizer: Tokenizer, by_id: dict[int, str], added: dict[int, Any]
) -> _Kinds:
    """Texts and types as the converter's `_create_vocab_sentencepiece` gives them.

    tokenizer.json of the Gemma models writes one byte token, <0x09>, as the character itself.
    """
    kinds: _Kinds = {}
    zero = next((i for i, text in by_id.items() if text == "<0x00>"), None)
    for i, text in by_id.items():
        if i in added:
            control = added[i].get("special") or _looks_special(text)
            plain = text if control else text.replace("▁", " ")
            kinds[i] = plain, CONTROL if control else USER_DEFINED
        elif _BYTE_TOKEN.fullmatch(text):
            kinds[i] = text, BYTE
        elif zero is not None and len(text) == 1 and i - zero == ord(text) < 0x100:
            kinds[i] = f"<0x{ord(text):02X}>", BYTE
        else:
            kinds[i] = text, NORMAL
    return kinds


def special_token_texts(tokenizer: Tokenizer) -> frozenset[str]:
    """The tokens that are special by tokenizer_config.json or by tokenizer.json."""
    config = tokenizer.config
    texts = {text_of(config.get(f"{name}_token")) for name in NAMED}
    for key in ("additional_special_tokens", "extra_special_tokens"):
        extra = config.get(key)
        listed = extra.values() if isinstance(extra, dict) else extra
        texts |= {text_of(t) for t in listed} if isinstance(listed, Iterable) else set()
    texts |= {t["content"] for t in tokenizer.document.get("added_tokens", []) if t.get("special")}
    return frozenset(t for t in texts if t)


def _looks_special(text: str) -> bool:
    """The converter's guess for added tokens that are not marked as special."""
    listed = {"<pad>", "<mask>", "<2mass>", "[@BOS@]"}
    shapes = [("<|", "|>"), ("<｜", "｜>"), ("<unused", ">")]
    return text in listed or any(text.startswith(a) and text.endswith(b) for a, b in shapes)


def engine(tokenizer: Tokenizer) -> Any:
    """The tokenizers library's own object.

    Raises:
        BadFileError: the library cannot read tokenizer.json.
    """
    tokenizers = require("tokenizers", extra="export")
    try:
        return tokenizers.Tokenizer.from_str(tokenizer.text)
    except Exception as error:  # the library raises plain Exception for what it cannot read
        raise BadFileError(
            f"the tokenizers library cannot read it: {error!s:.200}",
            where=tokenizer.folder / "tokenizer.json",
            remedy="save it again with the installed version of transformers",
        ) from error
