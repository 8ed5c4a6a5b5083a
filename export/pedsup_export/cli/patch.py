"""`pedsup-export patch` and `split`: megabytes for a thin link instead of gigabytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pedsup.errors import UsageError
from pedsup.files.parts.split import write_parts
from pedsup.progress import human_bytes
from pedsup.texts.safe import clean
from pedsup_export.allocation.budget import parse_size
from pedsup_export.cli.options import FILE, force_option, json_option, show, threads_option
from pedsup_export.patch.make import PatchMade, make_patch
from pedsup_export.patch.plan import PatchPlan, PatchRequest, plan_patch


@click.command()
@click.argument("old", type=FILE)
@click.argument("new", type=FILE)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The patch to write.")
@threads_option
@force_option("output")
@click.option("--dry-run", is_flag=True, help="Print what would be compared and write nothing.")
@json_option
def patch(dry_run: bool, as_json: bool, **options: Any) -> None:
    """Write a patch from OLD to NEW: two exports, each with its manifest beside it.

    Whoever has OLD gets NEW with `pedsup-run patch OLD PATCH`, manifest and signature included.
    """
    plan = plan_patch(PatchRequest(**options))
    if dry_run:
        show("patch-plan", plan.as_dict(), _plan_text(plan), as_json)
        return
    made = make_patch(plan)
    document = {**plan.as_dict(), **made.as_dict()}
    show("patch", document, "\n".join([_made_text(made), *_projector_lines(plan)]), as_json)


def _plan_text(plan: PatchPlan) -> str:
    hows = list(plan.how.values())
    lines = [
        f"{hows.count(how):6} tensors {name}, {human_bytes(plan.bytes_of(how))}"
        for how, name in (("same", "the same"), ("delta", "changed"), ("whole", "new"))
    ]
    signed = "signed" if plan.signature else "not signed"
    return "\n".join([*lines, f"the new file is {signed}", *_projector_lines(plan)])


def _projector_lines(plan: PatchPlan) -> list[str]:
    if plan.keeps_projector:
        return ["the projector of the old file is the new one's too: nothing else has to be sent"]
    if plan.projector is None:
        return []
    return [
        f"its projector is another one, which the patch does not carry: send "
        f"{clean(plan.projector)} too"
    ]


def _made_text(made: PatchMade) -> str:
    rows = [
        f"  {kind:6} {human_bytes(changed):>10} changed  "
        f"{human_bytes(made.tally.packed[kind]):>10}  "
        f"{100 * made.tally.packed[kind] / changed:5.2f} %"
        for kind, changed in sorted(made.tally.changed.items())
    ]
    head = (
        f"{clean(str(made.path))}: {human_bytes(made.size)}, "
        f"{100 * made.share:.2f} % of the new file"
    )
    signed = "signed" if made.signed else "not signed: sign it before you make the patch"
    return "\n".join([head, *rows, f"the new file is {signed}"])


@click.command()
@click.argument("file", type=FILE)
@click.option("--size", default="50MB", show_default=True, help="Largest part: 15MB, 100MB.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of the parts."
)
@force_option("output")
@json_option
def split(file: Path, size: str, out: Path | None, force: bool, as_json: bool) -> None:
    """Cut FILE into parts that a messaging app accepts; `pedsup-run join` puts them together."""
    if not file.is_file():
        raise UsageError("no such file", where=file, remedy="check the path")
    folder = out or file.parent
    folder.mkdir(parents=True, exist_ok=True)
    parts = write_parts(file, folder, parse_size(size, "--size"), force=force)
    document = {"file": str(file), "parts": [str(part) for part in parts]}
    show("split", document, "\n".join(clean(str(part)) for part in parts), as_json)
