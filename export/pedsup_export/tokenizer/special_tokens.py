"""Merges, special token ids, add_bos/eos/sep flags and chat template of a tokenizer folder.

The rules follow gguf-py's SpecialVocab (llama.cpp 0c1e57098), which is the tests' oracle: the
post-processor of tokenizer.json says what is added, tokenizer_config.json names the tokens,
config.json fills in ids that are still missing. As there, a number outside the vocabulary is left
out; -1, which some files write for "none", too. A wrong start or end token is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from pedsup.errors import BadFileError
from pedsup_export.tokenizer.files import PostProcessor, TemplatePart, Tokenizer, TokenizerDocument

NAMED: Final = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


@dataclass
class SpecialTokens:
    """What the tokenizer's files say of its special tokens."""

    ids: dict[str, int] = field(default_factory=dict)
    add: dict[str, bool] = field(default_factory=dict)
    """Whether the tokenizer adds 'bos', 'eos', 'sep' by itself."""
    notes: list[str] = field(default_factory=list)
    """What was left out of the files, and why."""


def text_of(entry: object) -> str | None:
    """A token entry of tokenizer_config.json is a string or an object with `content`."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None


def read_special_tokens(tokenizer: Tokenizer, n_tokens: int) -> SpecialTokens:
    """Collect special tokens from tokenizer.json, tokenizer_config.json and config.json.

    Args:
        n_tokens: the size of the vocabulary, which every number must be below.

    Raises:
        BadFileError: the start or end token of config.json is not in the vocabulary.
    """
    document, config = tokenizer.document, tokenizer.config
    found = SpecialTokens()
    names = {kind: text_of(config.get(f"{kind}_token")) for kind in NAMED}
    names["bos"] = names["bos"] or names["cls"]
    names["eos"] = names["eos"] or names["sep"]
    _read_post_processor(document.get("post_processor") or {}, names, found)
    if config:
        _read_config(document, config, names, found)
    text_config = tokenizer.model_config.get("text_config")
    for kind in (*NAMED, *(k for k in ("eot",) if names.get(k))):
        key = f"{kind}_token_id"
        number = tokenizer.model_config.get(key)
        if number is None and isinstance(text_config, dict):
            number = text_config.get(key)
        if isinstance(number, int) and not isinstance(number, bool) and kind not in found.ids:
            if 0 <= number < n_tokens:
                found.ids[kind] = number
            else:
                _leave_out(key, number, n_tokens, tokenizer, found)
    for kind, number in list(found.ids.items()):
        if not 0 <= number < n_tokens:
            _leave_out(f"{kind}_token", number, n_tokens, tokenizer, found)
            del found.ids[kind]
    return found


def _leave_out(
    key: str, number: int, n_tokens: int, tokenizer: Tokenizer, found: SpecialTokens
) -> None:
    """Say that a number names no token of the model; refuse it where generation needs it."""
    file = "config.json" if key.endswith("_id") else "tokenizer.json"
    if number != -1 and key.startswith(("bos", "eos")):
        raise BadFileError(
            f"'{key}' is {number}, and the model has {n_tokens} tokens",
            where=tokenizer.folder / file,
            wanted=f"a number below {n_tokens}",
            remedy=f"correct it there, or name the token in {key[:3]}_token of "
            "tokenizer_config.json",
        )
    why = "which means none" if number == -1 else f"and the model has {n_tokens} tokens"
    found.notes.append(f"{file} has '{key}' {number}, {why}: left out")


def _read_config(
    document: TokenizerDocument,
    config: dict[str, object],
    names: dict[str, str | None],
    found: SpecialTokens,
) -> None:
    added = {t.get("content"): t.get("id") for t in document.get("added_tokens", [])}
    for kind, text in names.items():
        flag = config.get(f"add_{kind}_token")
        if isinstance(flag, bool):
            found.add.setdefault(kind, flag)
        if text is not None and isinstance(number := added.get(text), int):
            found.ids.setdefault(kind, number)


def _read_post_processor(
    processor: PostProcessor, names: dict[str, str | None], found: SpecialTokens
) -> None:
    for step in processor.get("processors", [processor]):
        if step.get("type") == "ByteLevel":
            found.add.setdefault("bos", False)
            found.add.setdefault("eos", False)
        elif step.get("type") == "TemplateProcessing":
            _read_single(step.get("single") or [], names, found)
            _read_pair(step, names, found)


def _special(part: TemplatePart) -> str | None:
    token = part.get("SpecialToken")
    return token.get("id") if token else None


def _read_single(
    parts: list[TemplatePart], names: dict[str, str | None], found: SpecialTokens
) -> None:
    """A special token before or behind the text is one that the tokenizer adds."""
    if len(parts) < 2:
        return
    if first := _special(parts[0]):
        names["bos"] = names["bos"] or first
        names["cls"] = names["cls"] or first
        found.add["bos"] = first in (names["bos"], names["cls"])
    if last := _special(parts[-1]):
        if last != names["eos"]:
            # What ends a text is the end token; the configured one then ends a turn.
            names["eot"], names["eos"] = names["eos"], last
        found.add["eos"] = True


def _read_pair(step: PostProcessor, names: dict[str, str | None], found: SpecialTokens) -> None:
    """Between the two texts of a pair there may be a separator."""
    single, pair = step.get("single") or [], step.get("pair") or []
    if not pair:
        return
    first = _special(single[0]) if len(single) > 1 else None
    last = _special(single[-1]) if len(single) > 1 else None
    start = 1 if first and _special(pair[0]) == first else 0
    stop = -1 if last and _special(pair[-1]) == last else None
    inner = pair[start:stop]
    ends = [p.get("Sequence", {}).get("id") for p in (inner[0], inner[-1])] if inner else []
    if ends != ["A", "B"] or not (middle := inner[1:-1]):
        return
    separators = (names["sep"], names["eos"])
    add = bool(_special(middle[0]) in separators and not last)
    if len(middle) == 2 and _special(middle[1]) in separators:
        add = True
    found.add["sep"] = add
    if add and not names["sep"]:
        names["sep"] = names["eos"]
