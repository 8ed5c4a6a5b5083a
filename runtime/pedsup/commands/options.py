"""Options that several verbs have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

LANG: Final[Callable[[Any], Any]] = click.option(
    "--lang",
    type=click.Choice(["en", "es"]),
    expose_value=False,
    help="Language of the messages.",
)
"""For verbs that only print: `pedsup.language` reads its value from the command line."""
