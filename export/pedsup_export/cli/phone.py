"""`pedsup-export plan` and `phone-bundle`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pedsup.progress import say
from pedsup_export.cli.options import (
    EXISTING_FILE,
    FILE,
    dry_run_option,
    force_option,
    json_option,
    show,
)
from pedsup_export.phone.bundle import BundleRequest, plan_bundle, write_bundle
from pedsup_export.phone.command import find_phone, models_for, print_plan
from pedsup_export.vocabulary_cut.request import vocabulary_request


@click.command()
@click.option("--phone", help="Phone: name, chip or id; `pedsup-bench phones` lists them.")
@click.option(
    "--phone-profile",
    type=EXISTING_FILE,
    help="Your own phone profile: a TOML file like phones.toml.",
)
@click.option("--memory", metavar="SIZE", help="The phone's memory, if it has another: 6GB.")
@click.option("--base", help="Only this base: a folder, or a hub id; default: Gemma 4 E4B and E2B.")
@click.option("--languages", metavar="CODES", help="With a vocabulary cut to these: es,en.")
@click.option("--vocabulary", metavar="SIZE", help="Tokens to keep; default: 96k.")
@json_option
def plan(
    phone: str | None,
    phone_profile: Path | None,
    memory: str | None,
    base: str | None,
    **given: Any,
) -> int:
    """Choose model, type and context for a phone; only shapes are read."""
    wish = vocabulary_request(given["languages"], given["vocabulary"])
    found = find_phone(phone, phone_profile, memory)
    return print_plan(found, models_for(base), wish, as_json=given["as_json"])


@click.command("phone-bundle")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option("--model", type=click.Path(path_type=Path), help="The GGUF to include.")
@click.option("--adapter", type=click.Path(path_type=Path), help="An adapter file for it.")
@click.option("--patch", type=FILE, help="A patch for the model that is already on the phone.")
@click.option(
    "--debs",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Termux's packages (.deb) for a phone without internet.",
)
@force_option("folder")
@click.option(
    "--constraints",
    type=EXISTING_FILE,
    help="Versions of the wheels (a pip constraints file).",
)
@dry_run_option
@json_option
def phone_bundle(as_json: bool, dry_run: bool, **options: Any) -> None:
    """Write the folder that installs pedsup and a model in Termux from an SD card."""
    project = Path(__file__).resolve().parents[3]
    plan = plan_bundle(BundleRequest(project=project, **options))
    if plan.model is not None and plan.model.manifest_sha256 is None:
        say(f"warning: {plan.model.path.name} has no manifest: the phone cannot tell "
            "whether it is the file that was exported")  # fmt: skip
    if dry_run:
        show("phone-bundle-plan", plan.as_dict(), plan.as_text(), as_json)
        return
    bundle = write_bundle(plan)
    show("phone-bundle", bundle.as_dict(), bundle.as_text(), as_json)
