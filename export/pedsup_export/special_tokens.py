"""Merges, special token ids, add_bos/eos/sep flags and chat template of a tokenizer folder.

The rules follow gguf-py's SpecialVocab (llama.cpp 0c1e57098), which is the tests' oracle: the
post-processor of tokenizer.json says what is added, tokenizer_config.json names the tokens,
config.json fills in ids that are still missing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pedsup.errors import BadFileError

NAMED: Final = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


@dataclass
class SpecialTokens:
    """What the tokenizer's files say of its special tokens."""

    ids: dict[str, int] = field(default_factory=dict)
    add: dict[str, bool] = field(default_factory=dict)
    """Whether the tokenizer adds 'bos', 'eos', 'sep' by itself."""
    chat_template: str | None = None
    more_templates: dict[str, str] = field(default_factory=dict)


def text_of(entry: Any) -> str | None:
    """A token entry of tokenizer_config.json is a string or an object with `content`."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None


def read_special_tokens(
    folder: Path, document: dict[str, Any], config: dict[str, Any], model_config: dict[str, Any]
) -> SpecialTokens:
    """Collect special tokens from tokenizer.json, tokenizer_config.json and config.json."""
    found = SpecialTokens()
    names = {kind: text_of(config.get(f"{kind}_token")) for kind in NAMED}
    names["bos"] = names["bos"] or names["cls"]
    names["eos"] = names["eos"] or names["sep"]
    _read_post_processor(document.get("post_processor") or {}, names, found)
    if config:
        _read_config(folder, document, config, names, found)
    for kind in (*NAMED, *(k for k in ("eot",) if names.get(k))):
        number = model_config.get(f"{kind}_token_id")
        if number is None:
            number = (model_config.get("text_config") or {}).get(f"{kind}_token_id")
        if isinstance(number, int) and kind not in found.ids:
            found.ids[kind] = number
    for kind, number in found.ids.items():
        if number < 0:
            raise BadFileError(f"the {kind} token has the id {number}", where=folder)
    return found


def _read_config(
    folder: Path,
    document: dict[str, Any],
    config: dict[str, Any],
    names: dict[str, str | None],
    found: SpecialTokens,
) -> None:
    _read_template(folder, config, found)
    added = {t.get("content"): t.get("id") for t in document.get("added_tokens", [])}
    for kind, text in names.items():
        flag = config.get(f"add_{kind}_token")
        if isinstance(flag, bool):
            found.add.setdefault(kind, flag)
        if text is not None and isinstance(number := added.get(text), int):
            found.ids.setdefault(kind, number)


def _read_template(folder: Path, config: dict[str, Any], found: SpecialTokens) -> None:
    template = config.get("chat_template")
    jinja = folder / "chat_template.jinja"
    if template is None and jinja.is_file():
        template = jinja.read_text(encoding="utf-8")
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        found.more_templates = {n: t for n, t in named.items() if n and t and n != "default"}
        template = named.get("default")
    if isinstance(template, str):
        found.chat_template = template


def _read_post_processor(
    processor: dict[str, Any], names: dict[str, str | None], found: SpecialTokens
) -> None:
    for step in processor.get("processors", [processor]):
        if step.get("type") == "ByteLevel":
            found.add.setdefault("bos", False)
            found.add.setdefault("eos", False)
        elif step.get("type") == "TemplateProcessing":
            _read_single(step.get("single") or [], names, found)
            _read_pair(step, names, found)


def _special(part: dict[str, Any]) -> str | None:
    return (part.get("SpecialToken") or {}).get("id")


def _read_single(
    parts: list[dict[str, Any]], names: dict[str, str | None], found: SpecialTokens
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


def _read_pair(step: dict[str, Any], names: dict[str, str | None], found: SpecialTokens) -> None:
    """Between the two texts of a pair there may be a separator."""
    single, pair = step.get("single") or [], step.get("pair") or []
    if not pair:
        return
    first = _special(single[0]) if len(single) > 1 else None
    last = _special(single[-1]) if len(single) > 1 else None
    start = 1 if first and _special(pair[0]) == first else 0
    stop = -1 if last and _special(pair[-1]) == last else None
    inner = pair[start:stop]
    ends = [(p.get("Sequence") or {}).get("id") for p in (inner[0], inner[-1])] if inner else []
    if ends != ["A", "B"] or not (middle := inner[1:-1]):
        return
    separators = (names["sep"], names["eos"])
    add = bool(_special(middle[0]) in separators and not last)
    if len(middle) == 2 and _special(middle[1]) in separators:
        add = True
    found.add["sep"] = add
    if add and not names["sep"]:
        names["sep"] = names["eos"]
