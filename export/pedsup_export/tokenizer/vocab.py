"""Vocabulary, merges, special tokens and chat template, read from a Hugging Face folder.

The fields and their values are those of llama.cpp's official converter (conversion/base.py,
gguf-py/gguf/vocab.py at 0c1e57098), which the tests run as the oracle. The list of tokens is made
in `token_list`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Final

from pedsup.errors import UnsupportedError
from pedsup.gguf_file import ValueType
from pedsup_export.gguf.header import KV, array, boolean, string, u32
from pedsup_export.tokenizer.files import SENTENCEPIECE, Tokenizer, TokenizerDocument
from pedsup_export.tokenizer.scores import scored_tokens
from pedsup_export.tokenizer.special_tokens import read_special_tokens
from pedsup_export.tokenizer.token_list import USER_DEFINED, TokenList, engine, token_list

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
    "e636dc30a262dcc0d8c323492e32ae2b70728f4df7dfe9737d9f920a282b8aea": "qwen2",
    "d4540891389ea895b53b399da6ac824becc30f2fba0e9ddbb98f92e55ca0e97c": "qwen2",
}
# The text whose token ids name a pre-tokenizer (llama.cpp, convert_hf_to_gguf_update.py).
_PROBE: Final = (
    '\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶\u200d🌫️ (multiple emojis'
    ' concatenated) ✅ 🦙🦙 3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 កាន់តែព'
    'ិសេសអាច😁 ?我想在apple工作1314151天～ ------======= нещо на Български \'\'\'\'\'\'```````"""".'
    ".....!!!!!!?????? I've been 'told he's there, 'RE you sure? 'M not sure I'll make it, "
    "'D you like some tea? We'Ve a'lL"
)  # fmt: skip


@dataclass(frozen=True)
class Vocabulary:
    """The vocabulary fields of a GGUF, and what the user should know of them."""

    entries: tuple[KV, ...] = field(repr=False)
    notes: tuple[str, ...] = ()

    def value(self, key: str) -> Any:
        """The value of `tokenizer.KEY`, None when it is not there."""
        return next((e.value for e in self.entries if e.key == f"tokenizer.{key}"), None)

    def having(self, entry: KV) -> Vocabulary:
        """The same with this value of `entry.key`, at the end where the key was not there."""
        if all(e.key != entry.key for e in self.entries):
            return replace(self, entries=(*self.entries, entry))
        changed = (entry if e.key == entry.key else e for e in self.entries)
        return replace(self, entries=tuple(changed))


def gemma4_vocabulary(tokenizer: Tokenizer, n_tokens: int) -> Vocabulary:
    """Vocabulary fields of a Gemma 4 file (`tokenizer.ggml.model` = gemma4)."""
    tokens = token_list(tokenizer, n_tokens)
    types = [
        USER_DEFINED if text in GEMMA4_VISIBLE else kind
        for text, kind in zip(tokens.texts, tokens.types, strict=True)
    ]
    found = _vocabulary(tokenizer, "gemma4", replace(tokens, types=types), [-1000.0] * n_tokens)
    found = found.having(boolean("tokenizer.ggml.add_space_prefix", False))
    # Gemma always starts with <bos>, whatever the tokenizer files say of it.
    return found.having(boolean("tokenizer.ggml.add_bos_token", True))


def sentencepiece_vocabulary(tokenizer: Tokenizer, n_tokens: int) -> Vocabulary:
    """Vocabulary fields of a model whose tokens merge by scores (Gemma 3), with `<bos>` and no
    space before the text.
    """
    tokens, scores = scored_tokens(tokenizer, n_tokens)
    found = _vocabulary(tokenizer, "llama", tokens, scores, pre="default")
    return found.having(boolean("tokenizer.ggml.add_space_prefix", False))


def byte_level_vocabulary(tokenizer: Tokenizer, n_tokens: int) -> Vocabulary:
    """Vocabulary fields of a byte-level BPE (Qwen, Llama 3, SmolLM2)."""
    _refuse_sentencepiece(tokenizer)
    name = pre_tokenizer_name(tokenizer)
    return _vocabulary(tokenizer, "gpt2", token_list(tokenizer, n_tokens), pre=name)


def _refuse_sentencepiece(tokenizer: Tokenizer) -> None:
    if (tokenizer.folder / SENTENCEPIECE).is_file():
        raise UnsupportedError(
            "a SentencePiece tokenizer.model (Llama 1 and 2)",
            where=tokenizer.folder / SENTENCEPIECE,
            wanted="a base with tokenizer.json only (SmolLM2, Llama 3, Qwen), or a Gemma 3",
        )


def llama_vocabulary(tokenizer: Tokenizer, n_tokens: int) -> Vocabulary:
    """Vocabulary fields of a llama file: SentencePiece-like or byte-level BPE."""
    _refuse_sentencepiece(tokenizer)
    if tokenizer.document["model"].get("byte_fallback"):
        # As gguf-py's LlamaHfVocab makes it of a BPE with byte fallback.
        tokens = token_list(tokenizer, n_tokens)
        found = _vocabulary(tokenizer, "llama", tokens, [-1000.0] * n_tokens, pre="default")
    else:
        found = byte_level_vocabulary(tokenizer, n_tokens)
        if n_tokens == 49152:
            # The converter's rule for the small granite and SmolLM models.
            found = found.having(boolean("tokenizer.ggml.add_bos_token", False))
    if isinstance(prefix := tokenizer.config.get("add_prefix_space"), bool):
        first = boolean("tokenizer.ggml.add_space_prefix", prefix)
        found = replace(found, entries=(first, *found.entries))
    return found


def _vocabulary(
    tokenizer: Tokenizer,
    model: str,
    tokens: TokenList,
    scores: list[float] | None = None,
    *,
    pre: str | None = None,
) -> Vocabulary:
    """The fields that all kinds have; merges where the kind of `model` goes by them."""
    special, notes = _special_fields(tokenizer, len(tokens.texts), merges=model != "llama")
    entries = [string("tokenizer.ggml.model", model)]
    if pre is not None:
        entries.append(string("tokenizer.ggml.pre", pre))
    entries.append(array("tokenizer.ggml.tokens", ValueType.STRING, tokens.texts))
    if scores is not None:
        entries.append(array("tokenizer.ggml.scores", ValueType.FLOAT32, scores))
    entries.append(array("tokenizer.ggml.token_type", ValueType.INT32, tokens.types))
    return Vocabulary((*entries, *special), (*tokens.notes, *notes))


def pre_tokenizer_name(tokenizer: Tokenizer) -> str:
    """llama.cpp's name for the pre-tokenizer of a byte-level BPE, found as its converter does.

    Raises:
        UnsupportedError: no known model tokenizes the probe text like this.
    """
    ids = engine(tokenizer).encode(_PROBE).ids
    digest = sha256(str(ids).encode()).hexdigest()
    if digest not in PRE_TOKENIZERS:
        raise UnsupportedError(
            f"an unknown byte-level pre-tokenizer (probe digest {digest})",
            where=tokenizer.folder / "tokenizer.json",
            wanted=f"one of {', '.join(sorted(set(PRE_TOKENIZERS.values())))}",
            remedy="add its digest to PRE_TOKENIZERS once llama.cpp's converter knows it",
        )
    return PRE_TOKENIZERS[digest]


def _special_fields(
    tokenizer: Tokenizer, n_tokens: int, *, merges: bool
) -> tuple[list[KV], tuple[str, ...]]:
    """Merges, numbers of special tokens, flags and templates; and notes."""
    found = read_special_tokens(tokenizer, n_tokens)
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
    templates = tokenizer.templates
    if templates.named:
        entries += [string(f"tokenizer.chat_template.{n}", t) for n, t in
                    templates.named.items()]  # fmt: skip
        names = list(templates.named)
        entries.append(array("tokenizer.chat_templates", ValueType.STRING, names))
    if templates.default is not None:
        entries.append(string("tokenizer.chat_template", templates.default))
    return entries, (*tokenizer.notes, *found.notes)


def _merges(document: TokenizerDocument) -> list[str]:
    """Merges as "left right"; a space inside a part is written as chr(288), as llama.cpp reads."""
    merges = document["model"].get("merges") or []
    return [
        pair if isinstance(pair, str) else " ".join(part.replace(" ", "Ġ") for part in pair)
        for pair in merges
    ]
