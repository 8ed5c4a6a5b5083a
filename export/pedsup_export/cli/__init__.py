"""The command `pedsup-export`: run, calibrate, plan, verify, keygen, sign, ..."""

from __future__ import annotations

import os
from typing import Final

import click

import pedsup
from pedsup.cli.border import border
from pedsup.cli.command_line import LazyCommands

_MODULES: Final = {
    "run": "run", "plan": "phone", "verify": "verify", "adapter": "adapter", "keygen": "sign",
    "sign": "sign", "calibrate": "calibrate", "compare-bases": "verify", "patch": "patch",
    "split": "patch", "phone-bundle": "phone",
}  # fmt: skip
"""Command -> its module here."""


@click.group(
    cls=LazyCommands,
    where={n: f"pedsup_export.cli.{m}:{n.replace('-', '_')}" for n, m in _MODULES.items()},
    extra="export",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(pedsup.__version__, prog_name="pedsup-export")
def cli() -> None:
    """Turn a base model and a LoRA adapter into one verified GGUF file.

    Research only, not a medical device.
    """


def main() -> None:
    """Entry point of the console script."""
    # Threads of llama.cpp that wait by spinning take the time of those that multiply or round.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    border(lambda: cli.main(standalone_mode=False))
