"""The command `pedsup-export`: run, calibrate, plan, verify, keygen, sign, ..."""

from __future__ import annotations

import click

import pedsup
from pedsup.cli.border import border
from pedsup.cli.command_line import Commands
from pedsup_export.cli.adapter import adapter
from pedsup_export.cli.calibrate import calibrate
from pedsup_export.cli.patch import patch, split
from pedsup_export.cli.phone import phone_bundle, plan
from pedsup_export.cli.run import run
from pedsup_export.cli.sign import keygen, sign
from pedsup_export.cli.verify import compare_bases, verify


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(pedsup.__version__, prog_name="pedsup-export")
def cli() -> None:
    """Turn a base model and a LoRA adapter into one verified GGUF file.

    Research only, not a medical device.
    """


for command in (
    run, plan, verify, adapter, keygen, sign, calibrate, compare_bases, patch, split, phone_bundle
):  # fmt: skip
    cli.add_command(command)


def main() -> None:
    """Entry point of the console script."""
    border(lambda: cli.main(standalone_mode=False))
