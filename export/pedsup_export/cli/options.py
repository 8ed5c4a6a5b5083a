"""Options that several commands have, and how each shows its result."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from pedsup.files.envelope import enveloped
from pedsup.files.standard_streams import json_text

Command = TypeVar("Command", bound=Callable[..., Any])
FILE: Final = click.Path(path_type=Path, dir_okay=False)
EXISTING_FILE: Final = click.Path(path_type=Path, exists=True, dir_okay=False)
threads_option = click.option(
    "--threads", type=click.IntRange(1, 64), default=lambda: len(os.sched_getaffinity(0)),
    help="Default: the cores of this process.",
)  # fmt: skip
dry_run_option = click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
base_option = click.option(
    "--base", required=True, help="Base model: a folder, or a hub id owner/name."
)
passphrase_file_option = click.option(
    "--passphrase-file", type=FILE, help="Read the passphrase from a file that only you can read."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def force_option(what: str) -> Callable[[Command], Command]:
    """`--force`, which replaces `what`."""
    return click.option("--force", is_flag=True, help=f"Replace an existing {what}.")


def show(kind: str, document: Mapping[str, object], text: str, as_json: bool) -> None:
    """Print a document in its envelope, or its text."""
    whole = enveloped(document, "pedsup-export", schema=f"pedsup-export-{kind}/1")
    click.echo(json_text(whole) if as_json else text)
