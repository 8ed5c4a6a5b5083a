"""`pedsup-export adapter`: an adapter as a GGUF file of its own, for the base file it fits."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from pedsup.errors import UsageError
from pedsup.files.envelope import enveloped
from pedsup.files.standard_streams import json_text
from pedsup.progress import human_bytes, say
from pedsup_export.plan.adapter_file import TYPES
from pedsup_export.plan.adapter_file import plan_adapter_file as make_plan
from pedsup_export.plan.adapter_plan import AdapterFilePlan, AdapterFileRequest
from pedsup_export.plan.planner import unused_text
from pedsup_export.source.hub import ADAPTER_FILES, resolve
from pedsup_export.write.adapter_file import AdapterFile, write_adapter_file

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--adapter", required=True, help="LoRA adapter (PEFT): a folder, or a hub id.")
@click.option(
    "--base", "bases", multiple=True, required=True, type=click.Path(path_type=Path),
    help="GGUF file that the adapter will run beside; can be repeated.",
)  # fmt: skip
@click.option("--out", type=_FILE, required=True, help="The GGUF to write.")
@click.option(
    "--type", "kind", type=click.Choice(tuple(TYPES)), default="F16", show_default=True,
    help="Type of its matrices.",
)  # fmt: skip
@click.option("--allow-unused", is_flag=True, help="Leave out what llama.cpp cannot apply.")
@click.option("--force", is_flag=True, help="Replace an existing adapter file.")
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@click.option("--name", help="Name shown in the file; default: NAME (adapter).")
@click.option("--license", "licence", help="Licence shown in the file; default: the card's.")
@click.option("--adapter-revision", help="Hub revision of the adapter.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def adapter(as_json: bool, dry_run: bool, **given: Any) -> None:
    """Write an adapter as a separate file, to be applied to its base at run time.

    The base stays as it is: a new version of the adapter is a few tens of megabytes.
    docs/adapter.md says when merging is better.
    """
    _require_files(given["bases"])
    plan = make_plan(
        AdapterFileRequest(
            adapter=resolve(given["adapter"], ADAPTER_FILES, revision=given["adapter_revision"]),
            bases=given["bases"],
            out=given["out"],
            kind=given["kind"],
            allow_unused=given["allow_unused"],
            force=given["force"],
            name=given["name"],
            license=given["licence"],
        )
    )
    if dry_run:
        document = plan_json(plan)
        whole = enveloped(document, "pedsup-export", schema="pedsup-export-adapter-plan/1")
        click.echo(json_text(whole) if as_json else plan_text(plan))
        return
    say(plan_text(plan))
    result = write_adapter_file(plan)
    document = {**plan_json(plan), "path": str(result.path), "size": result.size,
                "sha256": result.sha256}  # fmt: skip
    whole = enveloped(document, "pedsup-export", schema="pedsup-export-adapter/1")
    click.echo(json_text(whole) if as_json else result_text(plan, result))


def _require_files(bases: tuple[Path, ...]) -> None:
    """Of all commands only this one takes a GGUF as `--base`: say what to do with a folder."""
    for base in bases:
        if base.is_dir():
            raise UsageError(
                "the base is a folder",
                where=f"--base {base}",
                wanted="the GGUF file that the adapter will run beside",
                remedy=f"make it first: pedsup-export run --base {base} --out base.gguf",
            )


def plan_text(plan: AdapterFilePlan) -> str:
    """What will be written, and everything that is left out."""
    lines = [
        f"architecture  {plan.bases[0].header.architecture}",
        *(f"base          {base.header.path}" for base in plan.bases),
        f"adapter       {plan.request.adapter.name}, {len(plan.changes)} matrices, "
        f"rank {', '.join(map(str, plan.ranks))}, alpha {plan.alpha:g}",
        f"type          {plan.request.kind}",
        f"output        {plan.request.out}",
        f"disk          {human_bytes(plan.output_bytes)}",
    ]
    lines += [f"unused delta  {unused_text(u)}" for u in plan.unused]
    return "\n".join([*lines, *(f"warning       {w}" for w in plan.warnings)])


def plan_json(plan: AdapterFilePlan) -> dict[str, object]:
    """The plan as a JSON document."""
    return {
        "architecture": plan.bases[0].header.architecture,
        "bases": [str(base.header.path) for base in plan.bases],
        "adapter": plan.request.adapter.name,
        "matrices": len(plan.changes),
        "ranks": plan.ranks,
        "alpha": plan.alpha,
        "type": plan.request.kind,
        "output": str(plan.request.out),
        "output_bytes": plan.output_bytes,
        "unused_deltas": [unused_text(u) for u in plan.unused],
        "warnings": list(plan.warnings),
    }


def result_text(plan: AdapterFilePlan, result: AdapterFile) -> str:
    """What was written, and how it is run."""
    model = shlex.quote(str(plan.bases[0].header.path))
    return (
        f"written   {result.path} ({human_bytes(result.size)})\n"
        f"manifest  {result.manifest}\n"
        f"sha256    {result.sha256}\n"
        f"run       pedsup-run {model} --adapter {shlex.quote(str(result.path))}"
    )
