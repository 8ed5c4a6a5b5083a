"""`pedsup-export verify` and `compare-bases`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pedsup.errors import UsageError
from pedsup.gguf_file import read_header
from pedsup.gguf_file.cut_vocabulary import is_cut
from pedsup.gguf_file.lora import is_adapter
from pedsup.trust.keys import read_public_key
from pedsup_export.cli.options import FILE, json_option, show
from pedsup_export.prove.compare_bases import compare_bases as compare
from pedsup_export.prove.remake import MadeWith
from pedsup_export.prove.verify import verify as check
from pedsup_export.source.checkpoint import Checkpoint
from pedsup_export.source.hub import ADAPTER_FILES, BASE_FILES, ModelRef, resolve
from pedsup_export.write import render


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--base",
    help="The base it was made from, to prove the adapter again; of an adapter file its GGUF.",
)
@click.option("--adapter", help="The adapter that must be in it.")
@click.option("--imatrix", type=FILE, help="The importance matrix that it was made with.")
@click.option("--calibrated", type=FILE, help="The statistics that it was rounded with.")
@click.option("--key", type=FILE, help="Public key of the required signer.")
@json_option
def verify(
    file: Path, base: str | None, adapter: str | None, key: Path | None, as_json: bool, **given: Any
) -> None:
    """Check a file against its manifest and signature, and that the adapter is in it."""
    if (base is None) != (adapter is None) and not (base and is_cut(read_header(file))):
        raise UsageError("--base and --adapter go together", remedy="give both or none")
    for name, value in given.items():
        if value is not None and base is None:
            raise UsageError(
                f"--{name} has no effect without --base and --adapter", remedy="give all three"
            )
    source = None
    if base:
        own = is_adapter(read_header(file))  # whose base is a GGUF
        source = ModelRef(Path(base), base) if own else resolve(base, BASE_FILES)
    report = check(
        file,
        base=source,
        adapter=resolve(adapter, ADAPTER_FILES) if adapter else None,
        key=read_public_key(key) if key else None,
        made_with=MadeWith(**given),
    )
    show("verify", render.verify_json(report), f"ok: {render.verified_text(report)}", as_json)


@click.command("compare-bases")
@click.argument("base_16bit")
@click.argument("base_4bit")
@json_option
def compare_bases(base_16bit: str, base_4bit: str, as_json: bool) -> None:
    """Print how far a 4-bit base is from the 16-bit one, per tensor and in total."""
    first, second = (
        Checkpoint.open(resolve(name, BASE_FILES).folder) for name in (base_16bit, base_4bit)
    )
    report = compare(first, second)
    show("compare-bases", report.as_dict(), report.table(), as_json)
