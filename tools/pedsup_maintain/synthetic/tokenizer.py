"""A tokenizer folder with a Gemma 4 vocabulary, for made checkpoints.

The real vocabulary (262144 tokens) is rebuilt from `ggml-vocab-gemma-4.gguf`, which llama.cpp's
sources carry; without it, or for another size, a byte-fallback BPE of the asked size is made up
whose control tokens have Gemma 4's ids. Both are read by transformers, by llama.cpp's converter
and by pedsup alike.
"""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

CONTROL: Final = {0: "<pad>", 1: "<eos>", 2: "<bos>", 3: "<unk>", 4: "<mask>", 46: "<|tool>",
                  47: "<tool|>", 98: "<|think|>", 105: "<|turn>", 106: "<turn|>"}  # fmt: skip
VISIBLE: Final = {48: "<|tool_call>", 49: "<tool_call|>", 50: "<|tool_response>",
                  51: "<tool_response|>", 52: '<|"|>', 100: "<|channel>",
                  101: "<channel|>"}  # fmt: skip
NEWLINE_ID: Final = 107
FIRST_BYTE_ID: Final = 238
CHAT_TEMPLATE: Final = (
    "{{ bos_token }}{% for message in messages %}"
    "<|turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ message['content'] | trim }}<turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)


@dataclass(frozen=True)
class Vocabulary:
    """Tokens in the order of their ids, and merges in the order of their rank."""

    tokens: list[str]
    merges: list[list[str]]
    real: bool


def vocabulary(size: int, source: Path | None = None) -> Vocabulary:
    """Gemma 4's own vocabulary when `source` has exactly `size` tokens, else a made-up one.

    Args:
        source: a GGUF file with the vocabulary (llama.cpp's models/ggml-vocab-gemma-4.gguf).

    Raises:
        BadFileError: `source` is not a GGUF file.
    """
    if source is not None and source.is_file():
        from pedsup.gguf_file import read_header
        from pedsup.gguf_file.values import ArrayValue

        metadata = read_header(source).metadata
        tokens, merges = (metadata.get(f"tokenizer.ggml.{name}") for name in ("tokens", "merges"))
        if not isinstance(tokens, ArrayValue) or not isinstance(merges, ArrayValue):
            return _made_up(size)
        if len(tokens) == size:
            pairs = [_split_merge(m) for m in merges.values()]
            return Vocabulary(tokens.values(), pairs, real=True)
    return _made_up(size)


def _split_merge(text: str) -> list[str]:
    # The parts hold no plain space (Gemma writes it as "▁"), so the only one separates them.
    left, _, right = text.partition(" ")
    return [left, right]


def _words() -> Iterator[str]:
    """Endless strings, each after its prefix: "abc" merges "ab", which came before, and "c"."""
    letters = string.ascii_lowercase
    for length in itertools.count(2):
        for word in itertools.product("▁" + letters, *[letters] * (length - 1)):
            yield "".join(word)


def _made_up(size: int) -> Vocabulary:
    names = {**CONTROL, **VISIBLE, NEWLINE_ID: "\n"}
    tokens = [names.get(i, f"<unused{i}>") for i in range(FIRST_BYTE_ID)]
    tokens += [f"<0x{i:02X}>" for i in range(256)]
    tokens += ["▁", *string.ascii_letters, *string.digits, *string.punctuation]
    if size < len(tokens):
        raise ValueError(f"a vocabulary has at least {len(tokens)} tokens, not {size}")
    words = list(itertools.islice(_words(), size - len(tokens)))
    return Vocabulary(tokens + words, [[w[:-1], w[-1]] for w in words], real=False)


def _document(vocab: Vocabulary) -> dict[str, Any]:
    """`tokenizer.json`, in the form that the released Gemma 4 has."""
    bos = {"SpecialToken": {"id": "<bos>", "type_id": 0}}
    second = {"SpecialToken": {"id": "<bos>", "type_id": 1}}
    added = [
        {"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": i in CONTROL}
        for i, text in sorted({**CONTROL, **VISIBLE}.items())
    ]  # fmt: skip
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "},
                          "behavior": "MergedWithPrevious", "invert": False},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}},
                     second, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>",
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
            "byte_fallback": True, "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(vocab.tokens)}, "merges": vocab.merges,
        },
    }  # fmt: skip


def write_tokenizer(folder: Path, vocab: Vocabulary) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
        "model_max_length": 131072,
        "extra_special_tokens": [text for i, text in sorted(CONTROL.items()) if i > 4],
        "chat_template": CHAT_TEMPLATE,
    }
    for name, content in (("tokenizer.json", _document(vocab)), ("tokenizer_config.json", config)):
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
