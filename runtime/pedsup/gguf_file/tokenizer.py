"""Whether the tokenizer in a GGUF is one that llama.cpp can use without an assertion.

Source: `llama_vocab::impl::load` in llama-vocab.cpp, llama.cpp 0c1e57098. It ends the process on
two equal tokens, and on a bos token that is to be added and not there.
"""

from __future__ import annotations

from typing import Final

from pedsup.errors import BadFileError, UnsupportedError
from pedsup.gguf_file.cursor import AGAIN
from pedsup.gguf_file.cut_vocabulary import base_ids
from pedsup.gguf_file.header import GGUFHeader
from pedsup.gguf_file.rules import bad_field, wrong_value
from pedsup.gguf_file.values import ArrayValue, ValueType
from pedsup.messages import message

MODELS: Final = ("gemma4", "gpt2", "llama")
"""Byte-level BPE (gpt2), Gemma 4's BPE, and sentencepiece (llama)."""
MAX_TOKENS: Final = 1 << 19
TOKENS: Final = "tokenizer.ggml.tokens"
MERGES: Final = "tokenizer.ggml.merges"
SCORES: Final = "tokenizer.ggml.scores"
TYPES: Final = "tokenizer.ggml.token_type"
MODEL: Final = "tokenizer.ggml.model"
_BYTES: Final = frozenset(b"<0x%02X>" % byte for byte in range(256))
_ADDED: Final = {
    "tokenizer.ggml.add_bos_token": "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.add_eos_token": "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.add_sep_token": "tokenizer.ggml.seperator_token_id",
}
_DEFAULTS: Final = ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id")
"""Tokens that have a default id in sentencepiece."""
_ADD_BOS_NAMES: Final = """
    llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano chameleon tekken
"""
_ADD_BOS: Final = frozenset(_ADD_BOS_NAMES.split())
"""Pre-tokenizers whose models get bos unless the file says otherwise."""
_TEXTS: Final = ("tokenizer.ggml.pre", "tokenizer.chat_template")
_FLAGS: Final = (
    *_ADDED,
    "tokenizer.ggml.add_space_prefix",
    "tokenizer.ggml.remove_extra_whitespaces",
)


def check_tokenizer(header: GGUFHeader) -> None:
    """Check types, lengths, token ids and that no token stands twice.

    Raises:
        UnsupportedError: another kind of tokenizer.
        BadFileError: a part is missing, of another type or length, or out of range.
    """
    model = header.get(MODEL)
    if model not in MODELS:
        raise UnsupportedError(
            "the file has no tokenizer"
            if model is None
            else message("a tokenizer of kind {kind}", kind=f"{model!r:.60}"),
            where=f"{header.path}: {MODEL}",
            wanted=message("one of: {names}", names=", ".join(MODELS)),
            remedy="choose a model file with its tokenizer, or export it again",
        )
    tokens = _array(header, TOKENS, (ValueType.STRING,))
    if not 0 < len(tokens) <= MAX_TOKENS:
        raise bad_field(
            header,
            TOKENS,
            message("has {n} tokens", n=len(tokens)),
            message("1 to {n}", n=MAX_TOKENS),
        )
    if model != "llama" or MERGES in header.metadata:
        _array(header, MERGES, (ValueType.STRING,))
    for key, kinds in (
        (SCORES, (ValueType.FLOAT32, ValueType.INT32)),
        (TYPES, (ValueType.INT32,)),
    ):
        if key in header.metadata and len(_array(header, key, kinds)) != len(tokens):
            raise bad_field(
                header, key, message("has {n} values", n=len(header.get(key))),
                message("{n}, one for each token", n=len(tokens)),
            )  # fmt: skip
    _check_ids(header, len(tokens), model)
    _check_texts(header, tokens, model)
    base_ids(header)


def _array(header: GGUFHeader, key: str, elements: tuple[ValueType, ...]) -> ArrayValue:
    value = header.get(key)
    wanted = message("an array of {type}", type=" or ".join(kind.name for kind in elements))
    if value is None:
        raise bad_field(header, key, "is missing", wanted)
    if not isinstance(value, ArrayValue):
        raise bad_field(
            header, key, message("is of type {type}", type=header.value_types[key].name), wanted
        )
    if value.element not in elements:
        raise bad_field(
            header, key, message("is an array of {type}", type=value.element.name), wanted
        )
    return value


def _check_ids(header: GGUFHeader, n_tokens: int, model: str) -> None:
    for key, value in header.metadata.items():
        if not (key.startswith("tokenizer.ggml.") and key.endswith("_token_id")):
            continue
        kind = header.value_types[key]
        if kind is not ValueType.UINT32 or not isinstance(value, int) or value >= n_tokens:
            wanted = message("a UINT32 below {n}, the number of tokens", n=n_tokens)
            raise wrong_value(header, key, wanted)
    for kind, keys in ((ValueType.STRING, _TEXTS), (ValueType.BOOL, _FLAGS)):
        for key in keys:
            if key in header.metadata and header.value_types[key] is not kind:
                raise bad_field(
                    header,
                    key,
                    message("is of type {type}", type=header.value_types[key].name),
                    kind.name,
                )
    for flag, token in _ADDED.items():
        known = token in header.metadata or (model == "llama" and token in _DEFAULTS)
        if _is_added(header, flag, model) and not known:
            raise bad_field(
                header, token, "is missing", message("the token that '{flag}' adds", flag=flag)
            )


def _is_added(header: GGUFHeader, flag: str, model: str) -> bool:
    """Whether llama.cpp adds a token: as the file says, or by default."""
    bos = flag == "tokenizer.ggml.add_bos_token"
    if bos and model == "gemma4":
        return True
    default = bos and (model == "llama" or header.get("tokenizer.ggml.pre") in _ADD_BOS)
    return bool(header.get(flag, default))


def _check_texts(header: GGUFHeader, tokens: ArrayValue, model: str) -> None:
    """No two tokens alike: llama.cpp keeps them as C strings and counts them."""
    seen: set[bytes] = set()
    for number, raw in enumerate(tokens.raw_strings()):
        text = raw.partition(b"\0")[0] if 0 in raw else raw
        text = text or b"[EMPTY_%d]" % number
        if text in seen:
            raise BadFileError(
                message(
                    "token {n} is '{text}', the same as an earlier one",
                    n=number,
                    text=text.decode("utf-8", "replace")[:60],
                ),
                where=f"{header.path}: {TOKENS}",
                wanted="each token once",
                remedy=AGAIN,
            )
        seen.add(text)
    if model == "llama" and not seen >= _BYTES:
        missing = min(_BYTES - seen).decode()
        raise bad_field(
            header,
            TOKENS,
            message("lacks the byte token {token}", token=missing),
            "<0x00> to <0xFF>",
        )
