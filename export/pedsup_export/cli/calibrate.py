"""`pedsup-export calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pedsup_export.allocation.budget import parse_size
from pedsup_export.calibration import command
from pedsup_export.cli.options import FILE, force_option, json_option, show, threads_option


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
@threads_option
@force_option("output")
@click.option("--dry-run", is_flag=True, help="Check model and texts and compute nothing.")
@json_option
def calibrate(as_json: bool, dry_run: bool, memory: str | None, **options: Any) -> None:
    """Run the 16-bit merge MODEL over text; keep what `run --calibrated` needs."""
    held = parse_size(memory, "--memory") if memory else None
    request = command.CalibrationRequest(memory=held, **options)
    plan = command.make_plan(request)
    if dry_run:
        texts = [text.name for text in plan.texts]
        document = {"model": str(request.model), "texts": texts}
        show("calibrate-plan", document, f"{request.model} on {', '.join(texts)}", as_json)
        return
    result = command.execute(plan)
    show("calibrate", result.as_dict(), result.as_text(), as_json)
