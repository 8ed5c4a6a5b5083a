"""`--help`, and what click says of a wrong command line, in the current language."""

from __future__ import annotations

import copy
import importlib
from typing import Final, TypeVar

import click

from pedsup.texts.language import translated

MODULES: Final = ("core", "decorators", "exceptions", "formatting", "parser", "types")
"""Of click. Each has its messages go through the `gettext` and `ngettext` that it imported."""
_Any = TypeVar("_Any", bound=click.Command)


def translate_click() -> None:
    """From now on click's own messages are in the current language.

    click takes them from the catalogue that gettext finds for the process: a binary file in a
    folder by language. Ours is one JSON file for all messages, so click is given our look-up.
    """
    for name in MODULES:
        module = importlib.import_module(f"click.{name}")
        for function, own in (("_", translated), ("ngettext", _counted)):
            if hasattr(module, function):
                setattr(module, function, own)


def translated_command(command: _Any) -> _Any:
    """A command that shows its help in the current language; the command itself stays English."""
    own = copy.copy(command)
    own.help = _paragraphs(command.help)
    own.options_metavar = command.options_metavar and translated(command.options_metavar)
    own.params = [_parameter(param) for param in command.params]
    if isinstance(own, click.Group):
        own.subcommand_metavar = translated(own.subcommand_metavar)
        own.commands = {name: translated_command(verb) for name, verb in own.commands.items()}
    return own


def _counted(one: str, more: str, n: int) -> str:
    return translated(one if n == 1 else more)


def _paragraphs(text: str | None) -> str | None:
    """A help text: each of its paragraphs is a message, however its lines are broken."""
    if text is None:
        return None
    return "\n\n".join(translated(" ".join(part.split())) for part in text.split("\n\n"))


def _parameter(param: click.Parameter) -> click.Parameter:
    own = copy.copy(param)
    if isinstance(own, click.Option):
        own.help = _paragraphs(own.help)
        if not isinstance(own.type, click.Choice) and not own.is_flag:
            own.metavar = translated(own.metavar or own.type.name.upper())
    elif own.metavar:
        own.metavar = translated(own.metavar)
    elif own.name:
        name = translated(own.name.upper())
        own.metavar = name if own.required else f"[{name}]"
    return own
