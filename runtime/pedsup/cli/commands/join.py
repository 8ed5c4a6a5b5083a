"""`pedsup-run join`: put the parts of a split file together."""

from __future__ import annotations

from pathlib import Path

import click

from pedsup.cli.output import show
from pedsup.cli.verbs import LANG
from pedsup.escape import escaped
from pedsup.files.parts.join import join, plan_join
from pedsup.messages import message
from pedsup.progress import byte_bar, human_bytes


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument(
    "parts", metavar="PARTS...", nargs=-1, required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path),
    help="The file to write; default: by its own name, beside the first part.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace a file of this name.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@LANG
def command(parts: tuple[Path, ...], out: Path | None, force: bool, as_json: bool) -> int:
    """Join the PARTS of a file that `pedsup-export split` made, given in any order."""
    plan = plan_join(parts, out, force=force)
    with byte_bar(plan.size, "join") as bar:
        path = join(plan, bar.update)
    document = {"schema": "pedsup-join/1", "path": str(path), "size": plan.size,
                "sha256": plan.sha256}  # fmt: skip
    line = message(
        "the file is whole: {path}, {size}", path=escaped(str(path)), size=human_bytes(plan.size)
    )
    show(as_json, document, [line])
    return 0
