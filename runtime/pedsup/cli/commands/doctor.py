"""`pedsup-run doctor`: what stands between this device and a good session."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click

from pedsup.cli.output import print_document
from pedsup.doctor.device import Device
from pedsup.doctor.examine import examine
from pedsup.doctor.finding import Finding
from pedsup.errors import UsageError
from pedsup.files.paths import config_folder
from pedsup.settings.load import FILE, load_settings
from pedsup.settings.schema import Settings
from pedsup.texts.intended_use import Language
from pedsup.texts.language import set_language
from pedsup.texts.screen import screen_of

PROBLEM: int = 1


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--lang", type=click.Choice(["en", "es"]), help="Language of the messages.")
def command(model: Path | None, as_json: bool, lang: Language | None) -> int:
    """Examine this device: what was found, how bad it is, and what to do about it.

    With MODEL (a GGUF file): also whether it fits, and how fast it is read. Nothing is loaded or
    changed. The exit code is 1 if something is a problem.
    """
    bad: tuple[Finding, ...] = ()
    try:
        settings = load_settings(None, {"lang": lang})
    except UsageError as error:
        # A doctor that refuses to look because of a typing error would be useless.
        settings = Settings(lang=lang)
        values = {"reason": error.found, "file": str(config_folder() / FILE)}
        bad = (Finding("settings", "problem", "settings_bad", values),)
    language = set_language(settings.lang)
    found = examine(Device(), model, settings)
    found = replace(found, findings=(*bad, *found.findings))
    if as_json:
        print_document(found.document(language))
    else:
        print(found.text(language, screen_of(sys.stdout).width()), flush=True)
    return PROBLEM if found.level == "problem" else 0
