"""The command `pedsup-bench`."""

from __future__ import annotations

import importlib
from typing import Final

import click

import pedsup
from pedsup.cli.border import border
from pedsup.cli.command_line import Commands

_COMMANDS: Final = (
    "run",
    "compare",
    "quality",
    "mcqa",
    "gate",
    "types",
    "vocabulary",
    "phones",
    "predict",
    "safety",
    "report",
)


class _Lazy(Commands):
    """Imports a sub-command's module when it is asked for: the phone lacks some dependencies."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"pedsup_bench.commands.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(
    cls=_Lazy,
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
