"""`pedsup-export calibrate`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from pedsup_export.cli.options import FILE, json_option, show


@click.command()
@click.argument("model", type=FILE)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to write.")
@click.option(
    "--text", "texts", type=FILE, multiple=True,
    help="Text, or dialogues (.jsonl); can be repeated. Default: the shipped dialogues.",
)  # fmt: skip
@click.option(
    "--judged-on", "judged", type=FILE, multiple=True,
    help="A text that files are judged on: an overlap is refused. Can be repeated.",
)  # fmt: skip
@click.option("--window", type=click.IntRange(16, 8192), default=512, show_default=True)
@click.option("--windows", "n_windows", type=click.IntRange(4), help="Limit on windows.")
@click.option("--memory", help="Memory for the sums; default: half of what is free.")
@click.option(
    "--sensitivity-windows", type=click.IntRange(0), default=1, show_default=True,
    help="Windows on which sensitivities (for --budget) are measured; 0: none.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(1, 64), help="Default: the cores of this process.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@click.option("--dry-run", is_flag=True, help="Check model and texts and compute nothing.")
@json_option
def calibrate(as_json: bool, dry_run: bool, memory: str | None, **options: Any) -> None:
    """Run the 16-bit merge MODEL over text; keep what `run --calibrated` needs."""
    from pedsup_export.allocation.budget import parse_size
    from pedsup_export.calibration import command

    options["threads"] = options["threads"] or len(os.sched_getaffinity(0))
    held = parse_size(memory, "--memory") if memory else None
    request = command.CalibrationRequest(memory=held, **options)
    plan = command.make_plan(request)
    if dry_run:
        document = {"model": str(request.model), "texts": [t.name for t in plan.texts]}
        show(
            "calibrate-plan",
            document,
            f"{request.model} on {', '.join(document['texts'])}",
            as_json,
        )
        return
    result = command.execute(plan)
    show("calibrate", result.as_dict(), result.as_text(), as_json)
