"""`pedsup-export adapter`: an adapter as a GGUF file of its own, for the base file it fits."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from pedsup.errors import UsageError
from pedsup.progress import human_bytes, say
from pedsup_export.cli.options import FILE, dry_run_option, force_option, json_option, show
from pedsup_export.plan.adapter_file import TYPES, plan_adapter_file
from pedsup_export.plan.adapter_plan import AdapterFilePlan, AdapterFileRequest
from pedsup_export.plan.planner import unused_text
from pedsup_export.source.hub import ADAPTER_FILES, resolve
from pedsup_export.write.adapter_file import AdapterFile, write_adapter_file


@click.command()
@click.option("--adapter", required=True, help="LoRA adapter (PEFT): a folder, or a hub id.")
@click.option(
    "--base", "bases", multiple=True, required=True, type=click.Path(path_type=Path),
    help="GGUF file that the adapter will run beside; can be repeated.",
)  # fmt: skip
@click.option("--out", type=FILE, required=True, help="The GGUF to write.")
@click.option(
    "--type", "kind", type=click.Choice([*TYPES]), default="F16", show_default=True,
    help="Type of its matrices.",
)  # fmt: skip
@click.option("--allow-unused", is_flag=True, help="Leave out what llama.cpp cannot apply.")
@force_option("adapter file")
@dry_run_option
@click.option("--name", help="Name shown in the file; default: NAME (adapter).")
@click.option("--license", help="Licence shown in the file; default: the card's.")
@click.option("--adapter-revision", help="Hub revision of the adapter.")
@json_option
def adapter(as_json: bool, dry_run: bool, **given: Any) -> None:
    """Write an adapter as a separate file, to be applied to its base at run time.

    The base stays as it is: a new version of the adapter is a few tens of megabytes.
    docs/adapter.md says when merging is better.
    """
    _require_files(given["bases"])
    source = resolve(given.pop("adapter"), ADAPTER_FILES, revision=given.pop("adapter_revision"))
    plan = plan_adapter_file(AdapterFileRequest(source, **given))
    if dry_run:
        show("adapter-plan", _plan_json(plan), _plan_text(plan), as_json)
        return
    say(_plan_text(plan))
    result = write_adapter_file(plan)
    document = {**_plan_json(plan), "path": str(result.path), "size": result.size,
                "sha256": result.sha256}  # fmt: skip
    show("adapter", document, _result_text(plan, result), as_json)


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


def _plan_text(plan: AdapterFilePlan) -> str:
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


def _plan_json(plan: AdapterFilePlan) -> dict[str, object]:
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


def _result_text(plan: AdapterFilePlan, result: AdapterFile) -> str:
    """What was written, and how it is run."""
    model = shlex.quote(str(plan.bases[0].header.path))
    return (
        f"written   {result.path} ({human_bytes(result.size)})\n"
        f"manifest  {result.manifest}\n"
        f"sha256    {result.sha256}\n"
        f"run       pedsup-run {model} --adapter {shlex.quote(str(result.path))}"
    )
