"""`pedsup-export run`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from pedsup.progress import say
from pedsup.texts.safe import clean
from pedsup_export.cli.options import (
    EXISTING_FILE,
    FILE,
    base_option,
    dry_run_option,
    force_option,
    json_option,
    show,
    threads_option,
)
from pedsup_export.cli.request import export_request, refuse_without_effect
from pedsup_export.plan.calibrated import make_plan
from pedsup_export.plan.export_plan import ExportPlan
from pedsup_export.prove.verify import verify
from pedsup_export.write import render
from pedsup_export.write.output import foreign_files
from pedsup_export.write.publish import check_output, execute
from pedsup_export.write.unchanged import unchanged


@click.command()
@base_option
@click.option("--adapter", help="LoRA adapter (PEFT): a folder, or a hub id.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The GGUF to write.")
@click.option("--quant", default="Q4_K_M", show_default=True, help="llama.cpp file type.")
@click.option("--phone", help="Let this phone's profile choose the type; an explicit --quant wins.")
@click.option("--base-4bit", help="The 4-bit base (bitsandbytes) the adapter was trained against.")
@click.option(
    "--merge-base",
    type=click.Choice(["16bit", "4bit"]),
    help="Which base to merge into when both are given; default: the one the adapter names.",
)
@click.option(
    "--merge-dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Round the merged weight before it is quantized, as a 16-bit intermediate file would.",
)
@click.option(
    "--tensor-type", "tensor_types", multiple=True, metavar="PATTERN=TYPE",
    help="Override the type of the tensors whose name matches; can be repeated.",
)  # fmt: skip
@click.option(
    "--imatrix",
    type=EXISTING_FILE,
    help="Importance matrix (llama.cpp's GGUF format).",
)
@click.option(
    "--calibrated",
    type=EXISTING_FILE,
    help="Statistics of `calibrate`: round with error feedback (docs/calibration.md).",
)
@click.option("--budget", help="Choose types for a size: 3.5GB, 4.5bpw, or that of Q4_K_M.")
@click.option("--allocation", type=FILE, help="Take the types that --save-allocation kept.")
@click.option("--save-allocation", type=FILE, help="Keep the types that --budget chose.")
@click.option(
    "--gate",
    type=EXISTING_FILE,
    help="Refuse to publish a file too far from this one: the same merge in 16 or 32 bits.",
)
@click.option(
    "--thresholds",
    type=EXISTING_FILE,
    help="Thresholds of --gate (TOML); default: those that ship with pedsup-bench.",
)
@click.option(
    "--gate-examples",
    type=EXISTING_FILE,
    help="Held-out examples of the adapter's task (JSON lines), which --gate scores too.",
)
@click.option(
    "--languages", metavar="CODES", help="Cut the vocabulary to these: es,en,pt,fr,qu,ay."
)
@click.option(
    "--vocabulary", metavar="SIZE|FILE",
    help="Tokens to keep: a number (96k), a list, or a GGUF whose vocabulary is taken over.",
)  # fmt: skip
@click.option(
    "--keep-text", "keep_texts", multiple=True, type=FILE,
    help="Keep every token that this text uses; can be repeated.",
)  # fmt: skip
@click.option(
    "--mmproj",
    type=click.Choice(["auto", "off"]),
    default="auto",
    show_default=True,
    help="Write the towers that see and hear to mmproj-NAME.gguf beside the model, or leave them.",
)
@click.option(
    "--mmproj-type",
    type=click.Choice(["BF16", "F16", "Q8_0"]),
    default="BF16",
    show_default=True,
    help="Type of the projector's matrices.",
)
@click.option("--allow-unused", is_flag=True, help="Export although deltas have no tensor.")
@click.option(
    "--allow-no-effect", is_flag=True, help="Export although the adapter changes nothing."
)
@click.option(
    "--tokenizer",
    type=click.Choice(["adapter", "base"]),
    default="adapter",
    show_default=True,
    help="Whose tokenizer and chat template, where the adapter's folder has others.",
)
@force_option("export")
@click.option(
    "--if-changed", is_flag=True,
    help="Do nothing where the output is what the same inputs, options and version make.",
)  # fmt: skip
@dry_run_option
@click.option("-v", "--verbose", is_flag=True, help="Also print the plan of each tensor.")
@threads_option
@click.option("--name", help="Name shown in the file; default: adapter on base.")
@click.option("--license", help="Licence shown in the file; default: the base's card.")
@click.option("--revision", help="Hub revision of the base.")
@click.option("--adapter-revision", help="Hub revision of the adapter.")
@json_option
def run(**options: Any) -> None:
    """Export: merge, quantize, write, prove, verify."""
    refuse_without_effect(options)
    request = export_request(options)
    plan, inputs = make_plan(request)
    text = render.plan_text(plan, tensors=options["verbose"])
    if options["dry_run"]:
        beside = plan.projector.path if plan.projector else request.out
        for path in dict.fromkeys((request.out, beside)):
            if path.exists() and not request.force:
                say(f"note: {path} exists: the export itself will want --force")
        show("plan", render.plan_json(plan), text, options["as_json"])
        return
    if options["if_changed"] and (same := unchanged(plan, inputs)) is not None:
        say(f"{request.out} is up to date: nothing is written")
        show(
            "verify",
            render.verify_json(same),
            f"ok: {render.verified_text(same)}",
            options["as_json"],
        )
        return
    plan = _ask_before_replacing(plan)
    check_output(plan)
    say(text)
    result = execute(plan, inputs)
    report = verify(result.path, read_sha256=result.sha256)
    show(
        "verify", render.verify_json(report), render.result_text(result, report), options["as_json"]
    )


def _ask_before_replacing(plan: ExportPlan) -> ExportPlan:
    """With `--force`, the plan that may replace a file of somebody else's, if the user says so.

    Where there is nobody to ask, the plan stays as it is, and its execution refuses.
    """
    beside = plan.projector.path if plan.projector else None
    foreign = [*foreign_files(plan.request.out, beside)] if plan.request.force else []
    if not foreign or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return plan
    names = ", ".join(clean(str(path)) for path in foreign)
    question = f"pedsup did not write {names}. Replace what is there?"
    if not click.confirm(question, default=False, err=True):
        return plan
    return replace(plan, request=replace(plan.request, replace_foreign=True))
