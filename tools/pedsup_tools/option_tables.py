"""The tables of options in docs/, from where the options are declared (`make option-tables`)."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Final

from pedsup.cli.options import flag_names, metavar, setting_kinds
from pedsup.settings.schema import Settings, option_of

DOCS: Final = Path(__file__).parents[2] / "docs"
BEGIN: Final = "<!-- begin: make option-tables -->\n"
END: Final = "<!-- end -->"


def settings_table() -> str:
    """The options of `pedsup-run` that are settings, as a table in Markdown."""
    kinds = setting_kinds()
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for setting in fields(Settings):
        option, names = option_of(setting), flag_names(setting)
        value = metavar(setting, kinds[setting.name]).replace("|", r"\|")
        shown = ", ".join(f"`{f'{name} {value}'.strip()}`" for name in names)
        rows.append(f"| {shown} | {option.default} | {option.meaning} |")
    return "\n".join(rows) + "\n"


def with_table(page: str, table: str) -> str:
    """A page with this table between its marks."""
    head, _, rest = page.partition(BEGIN)
    _, mark, tail = rest.partition(END)
    if not re.search(r"^\|", table) or not mark:
        raise ValueError("the page has no place for a table of options")
    return head + BEGIN + table + END + tail


def main() -> None:
    """Write the tables."""
    page = DOCS / "run.md"
    page.write_text(with_table(page.read_text("utf-8"), settings_table()), "utf-8")


if __name__ == "__main__":
    main()
