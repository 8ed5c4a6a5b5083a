"""SmolLM2's tokenizer, rebuilt from the vocabulary in its GGUF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from pedsup.errors import BadFileError
from pedsup.gguf_file import GGUFHeader
from pedsup.optional import require

CONTROL_TOKEN: Final = 3
"""GGUF's token type of a control (special) token."""


def need(header: GGUFHeader, key: str) -> Any:
    value = header.get(key)
    if value is None:
        raise BadFileError(
            f"the metadata has no '{key.replace('%s', header.architecture)}'", where=header.path
        )
    return value


def write_json(path: Path, value: dict[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tokenizer(header: GGUFHeader, folder: Path) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`.

    The pipeline is SmolLM2's: single digits, then GPT-2's byte-level pattern, then the
    merges; no normalizer and nothing added around the text.
    """
    tokenizers = require("tokenizers", extra="train")
    tokens = need(header, "tokenizer.ggml.tokens").values()
    kinds = need(header, "tokenizer.ggml.token_type").values()
    merges = [
        tuple(merge.split(" ", 1)) for merge in need(header, "tokenizer.ggml.merges").values()
    ]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens) or len(kinds) != len(tokens):
        raise BadFileError(
            f"{len(tokens)} tokens, {len(vocabulary)} of them different, {len(kinds)} types",
            where=header.path,
            wanted="as many of each",
        )
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens(
        [tokenizers.AddedToken(token, special=True, normalized=False) for token in control]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    template = str(need(header, "tokenizer.chat_template"))
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    write_json(folder / "tokenizer_config.json", _tokenizer_config(header, tokens, template))


def _tokenizer_config(header: GGUFHeader, tokens: list[str], template: str) -> dict[str, object]:
    def token(kind: str) -> str:
        return tokens[int(need(header, f"tokenizer.ggml.{kind}_token_id"))]

    return {
        # Not GPT2Tokenizer: transformers 5 builds that class's own pipeline, which would not
        # split digits; this class takes tokenizer.json as it is.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "bos_token": token("bos"),
        "chat_template": template,
        "clean_up_tokenization_spaces": False,
        "eos_token": token("eos"),
        "model_max_length": int(need(header, "%s.context_length")),
        "pad_token": token("padding"),
        "unk_token": token("unknown"),
    }
