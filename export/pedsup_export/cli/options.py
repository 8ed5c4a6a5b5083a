"""Options that several commands have, and how each shows its result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from pedsup.files.envelope import enveloped
from pedsup.files.standard_streams import json_text

FILE: Final = click.Path(path_type=Path, dir_okay=False)
base_option = click.option(
    "--base", required=True, help="Base model: a folder, or a hub id owner/name."
)
passphrase_file_option = click.option(
    "--passphrase-file", type=FILE, help="Read the passphrase from a file that only you can read."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def show(kind: str, document: Mapping[str, object], text: str, as_json: bool) -> None:
    """Print a document in its envelope, or its text."""
    whole = enveloped(document, "pedsup-export", schema=f"pedsup-export-{kind}/1")
    click.echo(json_text(whole) if as_json else text)
