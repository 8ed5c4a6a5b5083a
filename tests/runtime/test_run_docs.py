"""docs/run.md names every option, and no other."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import click

from pedsup.cli.main import run
from pedsup.settings.schema import Settings
from pedsup.terminal.commands import COMMANDS
from pedsup_tools.option_tables import settings_table, with_table

PAGE = (Path(__file__).parents[2] / "docs/run.md").read_text("utf-8")


def documented() -> set[str]:
    """Options in the first column of the tables."""
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `-")]
    return {option for row in rows for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", row)}


def real() -> set[str]:
    """Options of the command."""
    context = click.Context(run)
    options = [p for p in run.get_params(context) if isinstance(p, click.Option)]
    return {name for option in options for name in (*option.opts, *option.secondary_opts)}


def test_the_page_and_the_command_have_the_same_options() -> None:
    assert documented() == real() | {"-h"}  # click adds it by the context settings


def test_every_setting_is_an_option_of_the_command_line() -> None:
    parameters = {parameter.name for parameter in run.params}
    assert {field.name for field in fields(Settings)} <= parameters


def test_the_page_lists_every_command_of_the_session() -> None:
    commands = {f"/{command.name}" for command in COMMANDS}
    both = commands | {f"/{command.spanish}" for command in COMMANDS}
    written = set(re.findall(r"`(/\w+)", PAGE))
    assert commands <= written
    assert written <= both


def test_the_table_of_settings_is_what_the_settings_declare() -> None:
    """`make option-tables` writes it."""
    assert with_table(PAGE, settings_table()) == PAGE
