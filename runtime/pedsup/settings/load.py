"""Reads settings from a file and the command line, and notes where each came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, TypeAlias

from pedsup.errors import UsageError
from pedsup.files.paths import config_folder
from pedsup.files.records import record
from pedsup.files.source import Source, parse_toml, read_bytes
from pedsup.messages import Message, message
from pedsup.settings.schema import Settings

FILE: Final = "settings.toml"
MAX_BYTES: Final = 1 << 20
Origin: TypeAlias = Literal["command line", "settings file", "a program", "tuned", "default"]
"""Where a value came from; earlier ones win."""


def load_settings(path: Path | None, overrides: Mapping[str, object]) -> Settings:
    """Settings from a file (the user's own when None; it may be absent) and the command line.

    Args:
        overrides: by field name; None values do not override.

    Raises:
        UsageError: the file is missing or not TOML, has an unknown key, or a bad value.
    """
    return load_with_origins(path, overrides)[0]


def load_with_origins(
    path: Path | None, overrides: Mapping[str, object]
) -> tuple[Settings, dict[str, Origin]]:
    """`load_settings`, and where each value that is not the default came from."""
    settings = Settings()
    origins: dict[str, Origin] = {}
    file = path or config_folder() / FILE
    if path is not None or file.is_file():
        source = Source(
            message("the settings file"),
            file,
            error=UsageError,
            remedy=message("correct the line in the settings file, or remove it"),
        )
        table, source = parse_toml(read_bytes(file, source, MAX_BYTES), source)
        settings = record(Settings, table, source)
        origins |= dict.fromkeys(table, "settings file")
    named = {name: value for name, value in overrides.items() if value is not None}
    origins |= dict.fromkeys(named, "command line")
    return with_values(settings, named, where=message("the command line")), origins


def with_values(settings: Settings, values: Mapping[str, object], *, where: Message) -> Settings:
    """The settings with other values. Raises `UsageError` for one that a setting may not have."""
    return record(Settings, {**vars(settings), **values}, Source(where, where, UsageError))


def given_names(settings: Settings) -> dict[str, Origin]:
    """The values that differ from the default, for settings made by a program."""
    default = vars(Settings())
    return {name: "a program" for name, value in vars(settings).items() if value != default[name]}
