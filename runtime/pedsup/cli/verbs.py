"""The verbs of `pedsup-run` that are not a conversation, such as `pedsup-run doctor`.

A verb is the first word of the command line. Its module is imported only when it is asked for,
so that a conversation starts no slower for them. A model file of the same name is still run when
written as a path: `pedsup-run ./doctor`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import click

from pedsup.messages import Message, message
from pedsup.texts.language import translated

LANG: Final[Callable[[Any], Any]] = click.option(
    "--lang", type=click.Choice(["en", "es"]), expose_value=False, help="Language of the messages."
)
"""For verbs that only print: `pedsup.texts.language` reads its value from the command line."""


class Verb(NamedTuple):
    """The module of a verb, and what the verb is for."""

    module: str
    """In `pedsup.cli.commands`. Its attribute `command` is the click command; what that returns is
    the exit code."""
    summary: Message


VERBS: Final[dict[str, Verb]] = {
    "doctor": Verb("doctor", message("what this device has, lacks, and what to do")),
    "tune": Verb("tune", message("measure the best settings for a model on this device")),
    "verify": Verb("verify", message("read a model in full: manifest, signature, bytes")),
    "trust": Verb("trust", message("manage the keys that are trusted on this device")),
    "patch": Verb("patch", message("make a new version of a model from the old one and a patch")),
    "sessions": Verb("sessions", message("list the conversations that are kept, and search them")),
    "join": Verb("join", message("put the parts of a split file together")),
    "forget": Verb("forget", message("erase conversations and caches")),
}


def load_verb(name: str) -> click.Command:
    command: click.Command = importlib.import_module(
        f"pedsup.cli.commands.{VERBS[name].module}"
    ).command
    return command


def verbs_help() -> str:
    """The list for the epilog of `pedsup-run --help`."""
    rows = [f"  pedsup-run {name:<8} {translated(verb.summary)}" for name, verb in VERBS.items()]
    return "\n".join(["\b", translated("Other commands"), *rows])
