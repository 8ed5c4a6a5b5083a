"""Chat templates of a model folder, from every place that transformers and llama.cpp read.

    chat_template.jinja (and additional_chat_templates/NAME.jinja)   transformers 5 writes it
    tokenizer_config.json: chat_template, a text or a list of named ones
    chat_template.json: chat_template                                an older processor's

In this order: transformers prefers the file, and it made the training text. llama.cpp's converter
prefers tokenizer_config.json; where both are there and differ, the caller is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pedsup.errors import BadFileError

JINJA: Final = "chat_template.jinja"
MORE: Final = "additional_chat_templates"
LEGACY: Final = "chat_template.json"
CONFIG: Final = "tokenizer_config.json"
MAX_TEMPLATE: Final = 1 << 22
DEFAULT: Final = "default"
_MAX_NAMED: Final = 64


@dataclass(frozen=True)
class ChatTemplates:
    """The template of a folder and its named variants; `where` is the file that holds it."""

    default: str | None = None
    named: Mapping[str, str] = field(default_factory=dict)
    where: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def found(self) -> bool:
        """Whether the folder has any template."""
        return self.default is not None or bool(self.named)


def read_templates(
    folder: Path,
    config: Mapping[str, object],
    read_text: Callable[[Path, int], str],
    read_object: Callable[[Path], Mapping[str, object]],
) -> ChatTemplates:
    """The templates of `folder`.

    Args:
        config: tokenizer_config.json.
        read_text: reads a text file of at most so many bytes.
        read_object: reads a JSON object.

    Raises:
        BadFileError: a template that is neither text nor a list of named texts.
    """
    found: dict[str, dict[str, str]] = {}
    if (folder / JINJA).is_file():
        found[JINJA] = _files(folder, read_text)
    if (value := config.get("chat_template")) is not None:
        found[CONFIG] = _named(value, folder / CONFIG)
    if (folder / LEGACY).is_file():
        value = read_object(folder / LEGACY).get("chat_template")
        if value is not None:
            found[LEGACY] = _named(value, folder / LEGACY)
    if not found:
        return ChatTemplates()
    where, used = next(iter(found.items()))
    notes = tuple(
        f"{other} has another chat template than {where}: the one of {where} is exported, "
        "which transformers prefers"
        for other, templates in found.items()
        if templates.get(DEFAULT) != used.get(DEFAULT)
    )
    named = {name: text for name, text in used.items() if name != DEFAULT}
    return ChatTemplates(used.get(DEFAULT), named, where, notes)


def _files(folder: Path, read_text: Callable[[Path, int], str]) -> dict[str, str]:
    more = sorted((folder / MORE).glob("*.jinja"))[:_MAX_NAMED]
    texts = {DEFAULT: read_text(folder / JINJA, MAX_TEMPLATE)}
    return {**texts, **{p.stem: read_text(p, MAX_TEMPLATE) for p in more if p.is_file()}}


def _named(value: object, path: Path) -> dict[str, str]:
    if isinstance(value, str):
        return {DEFAULT: value}
    pairs = value.items() if isinstance(value, dict) else [
        (t.get("name"), t.get("template")) if isinstance(t, dict) else (None, None)
        for t in (value if isinstance(value, list) else [None])
    ]  # fmt: skip
    named = {n: t for n, t in pairs if isinstance(n, str) and n and isinstance(t, str)}
    if len(named) != len(pairs):
        raise BadFileError(
            "'chat_template' is neither a text nor a list of named texts",
            where=path,
            wanted='a Jinja template, or [{"name": ..., "template": ...}]',
            remedy="copy the file of the model again",
        )
    return named
