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

LANG: Final[Callable[[Any], Any]] = click.option(
    "--lang", type=click.Choice(["en", "es"]), expose_value=False, help="Language of the messages."
)
"""For verbs that only print: `pedsup.texts.language` reads its value from the command line."""


class Verb(NamedTuple):
    """Where a verb lives and what it is for."""

    module: str
    """In `pedsup.cli.commands`. Its attribute `command` is the click command; what that returns is
    the exit code."""
    summary: str


VERBS: Final[dict[str, Verb]] = {
    "doctor": Verb("doctor", "what this device has, lacks, and what to do"),
    "tune": Verb("tune", "measure the best settings for a model on this device"),
    "verify": Verb("verify", "read a model in full: manifest, signature, bytes"),
    "trust": Verb("trust", "whose signatures are believed here"),
    "patch": Verb("patch", "make a new version of a model from the old one and a patch"),
    "join": Verb("join", "put the parts of a split file together"),
    "forget": Verb("forget", "erase conversations and caches"),
}


def load_verb(name: str) -> click.Command:
    """Import the command of a verb."""
    command: click.Command = importlib.import_module(
        f"pedsup.cli.commands.{VERBS[name].module}"
    ).command
    return command


def verbs_help() -> str:
    """The list for the epilog of `pedsup-run --help`; empty while there are no verbs."""
    if not VERBS:
        return ""
    rows = "\n".join(f"  pedsup-run {name:<8} {verb.summary}" for name, verb in VERBS.items())
    return f"\b\nOther commands\n{rows}\n\n"
