"""Vocabulary, merges, special tokens and chat template, read from a Hugging Face folder.

The fields and their values are those of llama.cpp's official converter (conversion/base.py,
gguf-py/gguf/vocab.py at 0c1e57098), which the tests run as the oracle. One thing differs on
purpose: a token that `tokenizer.json` itself marks as special is written as a control token
even where `tokenizer_config.json` forgets to name it; llama.cpp would otherwise read a
`<|turn>` of the chat template as plain text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from pedsup.errors import BadFileError, UnsupportedError
from pedsup.gguf_file import ValueType
from pedsup.json_file import read_json_object
from pedsup.optional import require
from pedsup_export.gguf_out import KV, array, boolean, string, u32
from pedsup_export.special_tokens import NAMED, read_special_tokens, text_of

NORMAL, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 3, 4, 5, 6
_ID_KEYS: Final = {
    "bos": "bos",
    "eos": "eos",
    "unk": "unknown",
    "sep": "seperator",  # llama.cpp's spelling
    "pad": "padding",
    "mask": "mask",
    "eot": "eot",
    "eom": "eom",
}
# Tokens that the chat parser has to see, rendered although they are special.
GEMMA4_VISIBLE: Final = frozenset(
    ("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>",
     "<tool_response|>", '<|"|>')
)  # fmt: skip
# SHA-256 of the token ids of llama.cpp's probe text -> its name for the pre-tokenizer.
PRE_TOKENIZERS: Final = {
    "855059429035d75a914d1eda9f10a876752e281a054a7a3d421ef0533e5b6249": "smollm",
    "0ef9807a4087ebef797fc749390439009c3b9eda9ad1a097abbe738f486c01e5": "llama-bpe",
}
# The text whose token ids name a pre-tokenizer (llama.cpp, convert_hf_to_gguf_update.py).
_PROBE: Final = (
    '\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶\u200d🌫️ (multiple emojis'
    ' concatenated) ✅ 🦙🦙 3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 កាន់តែព'
    'ិសេសអាច😁 ?我想在apple工作1314151天～ ------======= нещо на Български \'\'\'\'\'\'```````"""".'
    ".....!!!!!!?????? I've been 'told he's there, 'RE you sure? 'M not sure I'll make it, "
    "'D you like some tea? We'Ve a'lL"
)  # fmt: skip

MAX_TOKENIZER: Final = 1 << 28
"""Bytes of tokenizer.json; Gemma 4's has 15 million."""
MAX_CONFIG: Final = 1 << 24


@dataclass(frozen=True)
class Tokenizer:
    """The parsed files of a tokenizer folder."""

    folder: Path
    document: dict[str, Any]
    """tokenizer.json"""
    config: dict[str, Any]
    """tokenizer_config.json, {} when there is none"""
    model_config: dict[str, Any]
    """config.json of the model"""

    @property
    def vocab(self) -> dict[str, int]:
        """Token -> id, added tokens included."""
        added = {token["content"]: token["id"] for token in self.document.get("added_tokens", [])}
        return {**self.document["model"]["vocab"], **added}


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer files of a base folder.

    Raises:
        BadFileError: tokenizer.json is missing or damaged.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise BadFileError(
            "the base has no tokenizer.json",
            where=folder,
            wanted="the tokenizer files beside the weights",
            remedy="copy tokenizer.json and tokenizer_config.json of the base model there",
        )
    document = read_json_object(path, "the tokenizer", MAX_TOKENIZER)
    model = document.get("model")
    model = model if isinstance(model, dict) else {}
    if not isinstance(model.get("vocab"), dict) or model.get("type") != "BPE":
        raise UnsupportedError(
            f"a tokenizer of type {model.get('type')!r:.60}",
            where=path,
            wanted="a BPE tokenizer, as Gemma 4 and Llama 3 or SmolLM2 have",
        )
    optional = [folder / "tokenizer_config.json", folder / "config.json"]
    config, model_config = (
        read_json_object(p, f"the file {p.name}", MAX_CONFIG) if p.is_file() else {}
        for p in optional
    )
    _check_tokens(document, path)
    return Tokenizer(folder, document, config, model_config)


def _check_tokens(document: dict[str, Any], path: Path) -> None:
    """Every token a text with a number."""
    added = document.get("added_tokens", [])
    good = isinstance(added, list) and all(
        isinstance(token, dict)
        and isinstance(token.get("content"), str)
        and isinstance(token.get("id"), int)
        for token in added
    )
    if not good or not all(isinstance(i, int) for i in document["model"]["vocab"].values()):
        raise BadFileError(
            "the tokenizer has a token that is no text with a number",
            where=path,
            remedy="copy tokenizer.json of the base model again",
        )


def gemma4_vocabulary(tokenizer: Tokenizer) -> list[KV]:
    """Vocabulary fields of a Gemma 4 file (`tokenizer.ggml.model` = gemma4)."""
    tokens, types = _byte_fallback_tokens(tokenizer)
    types = [
        USER_DEFINED if t in GEMMA4_VISIBLE else kind for t, kind in zip(tokens, types, strict=True)
    ]
    entries = [
        string("tokenizer.ggml.model", "gemma4"),
        array("tokenizer.ggml.tokens", ValueType.STRING, tokens),
        array("tokenizer.ggml.scores", ValueType.FLOAT32, [-1000.0] * len(tokens)),
        array("tokenizer.ggml.token_type", ValueType.INT32, types),
        *_special_fields(tokenizer, merges=True),
        boolean("tokenizer.ggml.add_space_prefix", False),
    ]
    # Gemma always starts with <bos>, whatever the tokenizer files say of it.
    return _replace(entries, boolean("tokenizer.ggml.add_bos_token", True))


def llama_vocabulary(tokenizer: Tokenizer) -> list[KV]:
    """Vocabulary fields of a llama file: SentencePiece-like or byte-level BPE."""
    if (tokenizer.folder / "tokenizer.model").is_file():
        raise UnsupportedError(
            "a SentencePiece tokenizer.model (Llama 1 and 2)",
            where=tokenizer.folder / "tokenizer.model",
            wanted="a base with tokenizer.json only (SmolLM2, Llama 3)",
        )
    entries = []
    if (prefix := tokenizer.config.get("add_prefix_space")) is not None:
        entries.append(boolean("tokenizer.ggml.add_space_prefix", prefix))
    if tokenizer.document["model"].get("byte_fallback"):
        tokens, types = _byte_fallback_tokens(tokenizer)
        return [
            *entries,
            string("tokenizer.ggml.model", "llama"),
            string("tokenizer.ggml.pre", "default"),
            array("tokenizer.ggml.tokens", ValueType.STRING, tokens),
            array("tokenizer.ggml.scores", ValueType.FLOAT32, [-1000.0] * len(tokens)),
            array("tokenizer.ggml.token_type", ValueType.INT32, types),
            *_special_fields(tokenizer, merges=False),
        ]
    tokens, types = _byte_level_tokens(tokenizer)
    entries += [
        string("tokenizer.ggml.model", "gpt2"),
        string("tokenizer.ggml.pre", pre_tokenizer_name(tokenizer)),
        array("tokenizer.ggml.tokens", ValueType.STRING, tokens),
        array("tokenizer.ggml.token_type", ValueType.INT32, types),
        *_special_fields(tokenizer, merges=True),
    ]
    if len(tokens) == 49152:  # the converter's rule for the small granite and SmolLM models
        entries = _replace(entries, boolean("tokenizer.ggml.add_bos_token", False))
    return entries


def _replace(entries: list[KV], entry: KV) -> list[KV]:
    """`entries` with the value of `entry.key` replaced, or appended when it is not there."""
    if all(e.key != entry.key for e in entries):
        return [*entries, entry]
    return [entry if e.key == entry.key else e for e in entries]


def special_token_texts(tokenizer: Tokenizer) -> frozenset[str]:
    """The tokens that are special by tokenizer_config.json or by tokenizer.json."""
    config = tokenizer.config
    texts = {text_of(config.get(f"{name}_token")) for name in NAMED}
    for key in ("additional_special_tokens", "extra_special_tokens"):
        extra = config.get(key) or []
        texts |= {text_of(t) for t in (extra.values() if isinstance(extra, dict) else extra)}
    texts |= {t["content"] for t in tokenizer.document.get("added_tokens", []) if t.get("special")}
    return frozenset(t for t in texts if t)


def _by_id(tokenizer: Tokenizer) -> dict[int, str]:
    by_id: dict[int, str] = {}
    for text, number in tokenizer.vocab.items():
        if not isinstance(number, int) or number < 0 or number >= 1 << 24 or number in by_id:
            raise BadFileError(
                f"token {text!r} has the id {number!r}",
                where=tokenizer.folder / "tokenizer.json",
                wanted="each id once, from 0 up",
            )
        by_id[number] = text
    return by_id


def _byte_fallback_tokens(tokenizer: Tokenizer) -> tuple[list[str], list[int]]:
    """Tokens and types as gguf-py's LlamaHfVocab gives them: no padding, added ones behind."""
    by_id, special = _by_id(tokenizer), special_token_texts(tokenizer)
    n_base = len(tokenizer.document["model"]["vocab"])
    tokens = [by_id[i] for i in sorted(by_id)]
    if sorted(by_id) != list(range(len(by_id))):
        raise BadFileError(
            "the vocabulary has holes",
            where=tokenizer.folder / "tokenizer.json",
            wanted=f"ids 0 to {len(by_id) - 1}",
        )
    types = []
    for i, text in enumerate(tokens):
        if i < n_base and re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", text):
            types.append(BYTE)
        elif text in special:
            types.append(CONTROL)
        else:
            types.append(NORMAL if i < n_base else USER_DEFINED)
    return tokens, types


def _byte_level_tokens(tokenizer: Tokenizer) -> tuple[list[str], list[int]]:
    """Tokens and types as the converter's get_vocab_base gives them, padded to vocab_size."""
    by_id = _by_id(tokenizer)
    n_vocab = int(tokenizer.model_config.get("vocab_size", len(by_id)))
    if max(by_id) >= n_vocab or n_vocab > 1 << 24:
        raise BadFileError(
            f"token id {max(by_id)} with a vocab_size of {n_vocab}",
            where=tokenizer.folder,
            wanted="a vocab_size above every token id",
        )
    engine = _engine(tokenizer)
    added = {t["id"]: t for t in tokenizer.document.get("added_tokens", [])}
    tokens, types = [], []
    for i in range(n_vocab):
        if i not in by_id:
            tokens.append(f"[PAD{i}]")
            types.append(UNUSED)
            continue
        text, kind = by_id[i], NORMAL
        if i in added:
            if not added[i].get("normalized"):
                ids = engine.encode(text, add_special_tokens=False).ids
                text = engine.decode(ids, skip_special_tokens=False)
            looks_special = added[i].get("special") or _looks_special(text)
            kind = CONTROL if looks_special else USER_DEFINED
            if kind == USER_DEFINED:
                text = text.replace("▁", " ")
        tokens.append(text)
        types.append(kind)
    return tokens, types


def _looks_special(text: str) -> bool:
    """The converter's guess for added tokens that are not marked as special."""
    listed = {"<pad>", "<mask>", "<2mass>", "[@BOS@]"}
    shapes = [("<|", "|>"), ("<｜", "｜>"), ("<unused", ">")]
    return text in listed or any(text.startswith(a) and text.endswith(b) for a, b in shapes)


def _engine(tokenizer: Tokenizer) -> Any:
    tokenizers = require("tokenizers", extra="export")
    return tokenizers.Tokenizer.from_file(str(tokenizer.folder / "tokenizer.json"))


def pre_tokenizer_name(tokenizer: Tokenizer) -> str:
    """llama.cpp's name for the pre-tokenizer of a byte-level BPE, found as its converter does.

    Raises:
        UnsupportedError: no known model tokenizes the probe text like this.
    """
    ids = _engine(tokenizer).encode(_PROBE).ids
    digest = sha256(str(ids).encode()).hexdigest()
    if digest not in PRE_TOKENIZERS:
        raise UnsupportedError(
            f"an unknown byte-level pre-tokenizer (probe digest {digest})",
            where=tokenizer.folder / "tokenizer.json",
            wanted=f"one of {', '.join(sorted(set(PRE_TOKENIZERS.values())))}",
            remedy="add its digest to PRE_TOKENIZERS once llama.cpp's converter knows it",
        )
    return PRE_TOKENIZERS[digest]


def _special_fields(tokenizer: Tokenizer, *, merges: bool) -> list[KV]:
    found = read_special_tokens(
        tokenizer.folder, tokenizer.document, tokenizer.config, tokenizer.model_config
    )
    entries = []
    if merges:
        entries.append(
            array("tokenizer.ggml.merges", ValueType.STRING, _merges(tokenizer.document))
        )
    entries += [
        u32(f"tokenizer.ggml.{_ID_KEYS[kind]}_token_id", number)
        for kind, number in found.ids.items()
        if kind in _ID_KEYS
    ]
    entries += [
        boolean(f"tokenizer.ggml.add_{kind}_token", flag)
        for kind, flag in found.add.items()
        if kind in ("bos", "eos", "sep")
    ]
    if found.more_templates:
        entries += [string(f"tokenizer.chat_template.{n}", t) for n, t in
                    found.more_templates.items()]  # fmt: skip
        names = list(found.more_templates)
        entries.append(array("tokenizer.chat_templates", ValueType.STRING, names))
    if found.chat_template is not None:
        entries.append(string("tokenizer.chat_template", found.chat_template))
    return entries


def _merges(document: dict[str, Any]) -> list[str]:
    """Merges as "left right"; a space inside a part is written as chr(288), as llama.cpp reads."""
    merges = document["model"].get("merges") or []
    if merges and isinstance(merges[0], list):
        return [" ".join(part.replace(" ", "Ġ") for part in pair) for pair in merges]
    return list(merges)
