"""The command `pedsup-bench`."""

from __future__ import annotations

from typing import Final

import click

import pedsup
from pedsup.cli.border import border
from pedsup.cli.command_line import LazyCommands

_COMMANDS: Final = (
    "run",
    "compare",
    "quality",
    "mcqa",
    "gate",
    "vocabulary",
    "phones",
    "predict",
    "safety",
    "report",
)


@click.group(
    cls=LazyCommands,
    # A phone lacks what some of them need.
    where={name: f"pedsup_bench.commands.{name}:{name}" for name in _COMMANDS},
    extra="bench",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(pedsup.__version__, prog_name="pedsup-bench")
def cli() -> None:
    """Measure a GGUF: speed, memory, and what quantization cost.

    Research only, not a medical device.
    """


def main() -> None:
    """Entry point of the console script."""
    border(lambda: cli.main(standalone_mode=False))
