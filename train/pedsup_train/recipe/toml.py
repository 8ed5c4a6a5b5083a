"""A recipe written back as TOML, which the standard library only reads."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

from pedsup_train.recipe.schema import Recipe


def to_toml(recipe: Recipe) -> str:
    """The whole recipe as TOML, every default written out; `read_recipe` gives it back equal."""
    lines: list[str] = []
    _dump(dataclasses.asdict(recipe), "", lines)
    return "\n".join(lines).lstrip("\n") + "\n"


def _dump(table: Mapping[str, object], prefix: str, lines: list[str]) -> None:
    for key, value in table.items():
        if not _is_table(value):
            lines.append(f"{key} = {_scalar(value)}")
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += ["", f"[{prefix}{key}]"]
            _dump(value, f"{prefix}{key}.", lines)
        elif isinstance(value, tuple | list) and _is_table(value):
            for item in value:
                lines += ["", f"[[{prefix}{key}]]"]
                _dump(item, f"{prefix}{key}.", lines)


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping) or (
        isinstance(value, tuple | list) and bool(value) and isinstance(value[0], Mapping)
    )


def _scalar(value: object) -> str:
    """A TOML value. JSON's strings are TOML basic strings once DEL is escaped."""
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_scalar(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
