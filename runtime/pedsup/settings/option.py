"""How a setting is shown: as an option of the command line and in the documentation."""

from __future__ import annotations

from dataclasses import Field, dataclass, field
from typing import Final, TypeVar

V = TypeVar("V")


@dataclass(frozen=True)
class Option:
    """How a setting is shown: as an option of the command line and in the documentation."""

    help: str
    """A sentence for `--help`."""
    meaning: str
    """What the table in docs/run.md says."""
    default: str
    """The default as the table names it."""
    metavar: str | None = None
    """The name of its value in the help, if its type does not give one."""


_KEY: Final = "option"


def option(
    value: V,
    *,
    help: str,
    meaning: str | None = None,
    default: str | None = None,
    metavar: str | None = None,
) -> V:
    """A field with its default and what an option needs.

    Args:
        meaning: what the table says where that is more than the help; None: the help.
        default: how the table names the default; None: as it is.
    """
    word = {"True": "on", "False": "off", "None": "none"}.get(str(value), str(value))
    text = meaning or help[0].lower() + help[1:].removesuffix(".")
    shown = Option(help, text, word if default is None else default, metavar)
    return field(default=value, metadata={_KEY: shown})


def option_of(setting: Field[object]) -> Option:
    """The option of a field of `Settings`."""
    found = setting.metadata[_KEY]
    assert isinstance(found, Option)
    return found
