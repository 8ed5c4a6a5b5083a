"""Options that several sub-commands share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import click

from pedsup.device.cores import allowed_cpus, plan_threads, read_cores
from pedsup.files.fsio import atomic_file, refuse_existing
from pedsup.files.standard_streams import json_text
from pedsup_bench.report import document

Command = TypeVar("Command", bound=Callable[..., Any])

MODEL = click.argument("model", type=click.Path(path_type=Path))
ADAPTER = click.option(
    "--adapter", type=click.Path(path_type=Path), help="Apply this LoRA adapter (GGUF) to MODEL."
)
THREADS = click.option(
    "--threads", type=click.IntRange(1, 256), help="Default: one per big core of this process."
)
ALLOW_TEMPLATE = click.option(
    "--allow-template", is_flag=True, help="Use a chat template pedsup does not know."
)
DRY_RUN = click.option("--dry-run", is_flag=True, help="Print the plan and measure nothing.")
OUT = click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Also write the JSON document."
)
FORCE = click.option("--force", is_flag=True, help="Replace an existing output.")
HTML = click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), help="Also write a page with plots."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print the JSON document.")


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in this order in the help."""
    return lambda command: reduce(lambda made, option: option(made), reversed(options), command)


OUTPUTS = together(OUT, FORCE, JSON)
PAGE_OUTPUTS = together(OUT, HTML, FORCE, JSON)


def n_threads(asked: int | None) -> int:
    """`--threads`, or one per big core."""
    return plan_threads(read_cores(allowed_cpus())).n_threads if asked is None else asked


def show(result: Mapping[str, object], text: str, *, as_json: bool) -> None:
    """The result on stdout: a table, or the document."""
    click.echo(json_text(document.finite(result)) if as_json else text)


def show_plan(plan: Mapping[str, object], *, as_json: bool) -> None:
    """What would be measured: a line for each fact, or one document."""
    if as_json:
        show({**document.head("pedsup-bench-plan/1"), "plan": plan}, "", as_json=True)
        return
    for name, value in plan.items():
        click.echo(f"{name:<14} {_shown(value)}")


def _shown(value: object) -> str:
    """Words of a list below each other, its numbers beside each other."""
    if not isinstance(value, tuple | list):
        return str(value)
    words = any(isinstance(one, str) for one in value)
    return (f"\n{'':15}" if words else ", ").join(map(str, value))


def put_out(
    result: Mapping[str, object],
    text: str,
    given: Mapping[str, Any],
    page: Callable[[], str] | None = None,
) -> None:
    """Write the document and its page where `--out` and `--html` say; print table or document."""
    if given["out"]:
        save_page(document.dumps(result) + "\n", given["out"], force=given["force"])
    if page is not None and given["html"]:
        save_page(page(), given["html"], force=given["force"])
    show(result, text, as_json=given["as_json"])


def save_page(text: str, path: Path, *, force: bool) -> None:
    """Write a page or a document whole or not at all."""
    with atomic_file(path, force=force) as file:
        file.write(text.encode("utf-8"))


def refuse_existing_outputs(*paths: Path | None, force: bool) -> None:
    """Before anything is measured.

    Raises:
        OutputError: one of the files is there and `force` is not set.
    """
    for path in paths:
        if path is not None:
            refuse_existing(path, force=force)


def table(rows: list[list[str]]) -> str:
    """Columns as wide as they must be; the first is left-aligned, the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
