"""What all four commands change in click: help is not cut, and ranges are readable."""

from __future__ import annotations

import ast
import importlib.util
import shutil
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import click

from pedsup.optional import require
from pedsup.texts.language import translated

NARROW: Final = 60
"""Columns below which two columns of text, options and what they do, leave too little for each."""


class NarrowFormatter(click.HelpFormatter):
    """click's formatter, for phones too: it takes a terminal of less than 50 columns to have 50."""

    def __init__(self, *args: Any, **given: Any) -> None:
        super().__init__(*args, **given)
        columns = shutil.get_terminal_size().columns
        self._narrow = columns < NARROW
        if self._narrow:
            self.width = min(self.width, max(columns - 2, 20))

    def write_text(self, text: str) -> None:
        """A text; on a narrow terminal also the paragraphs that are laid out by hand (\\b)."""
        if self._narrow:
            width = self.width - self.current_indent
            paragraphs = [
                "\n".join(_folded(line, width) for line in part.split("\n"))
                if part.startswith("\b") else part
                for part in text.split("\n\n")
            ]  # fmt: skip
            text = "\n\n".join(paragraphs)
        super().write_text(text)

    def write_dl(
        self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        """Definitions; on a narrow terminal each below its term."""
        super().write_dl(rows, 4 if self._narrow else col_max, col_spacing)


def _folded(line: str, width: int) -> str:
    """A line and what follows of it: below a row or a point of a list, further in."""
    start = len(line) - len(line.lstrip())
    indent = " " * (start + 2 if line[:1] in (" ", "-") else start)
    return textwrap.fill(line, width, subsequent_indent=indent, break_on_hyphens=False)


def fit_help_to_phones() -> None:
    """From now on all help of this process is written for the terminal's true width."""
    click.Context.formatter_class = NarrowFormatter


class Commands(click.Group):
    """A group whose help shows each command's whole first sentence, wrapped, on any terminal.

    click cuts it to one line: on a phone's 45 columns after three words.
    """

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if rows := self.summaries(ctx):
            with formatter.section(translated("Commands")):
                formatter.write_dl(rows)

    def summaries(self, ctx: click.Context) -> list[tuple[str, str]]:
        """Each command's name and first sentence."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        return [(n, c.get_short_help_str(limit=1000)) for n, c in found if c and not c.hidden]


class LazyCommands(Commands):
    """A group that imports a command's module when the command is asked for.

    Args:
        where: command -> "module:attribute", in the order of the help.
        extra: the group of optional dependencies that the modules may need.
    """

    def __init__(self, *args: Any, where: Mapping[str, str], extra: str, **given: Any) -> None:
        super().__init__(*args, **given)
        self._where, self._extra = where, extra

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._where)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._where:
            return None
        module, _, attribute = self._where[cmd_name].partition(":")
        command: click.Command = getattr(require(module, extra=self._extra), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """click suggests commands that were imported: here, none."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches  # not at every start

            for near in get_close_matches(args[0], self._where, n=1):
                more = f"{error.message} Did you mean '{near}'?"
                raise click.UsageError(more, error.ctx) from None
            raise

    def summaries(self, ctx: click.Context) -> list[tuple[str, str]]:
        """From the docstrings in the source: a list of commands need not wait for numpy."""
        return [(name, _first_sentence(*at.split(":"))) for name, at in self._where.items()]


def _first_sentence(module: str, function: str) -> str:
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, f"{module} is a file"
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            first = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
            sentence, stop, _ = first.partition(". ")
            return sentence + stop.rstrip()
    raise AssertionError(f"{module} does not define {function}")


def readable(error: click.ClickException) -> click.ClickException:
    """click's message about a value outside of a range, with the range as people write it: 1–64."""
    if not isinstance(error, click.BadParameter) or error.param is None:
        return error
    kind = error.param.type
    if not isinstance(kind, click.IntRange | click.FloatRange):
        return error
    # click's own words for the kind, 'integer range', and for the range, '1<=x<=64'.
    text = error.message.replace(kind.name, kind.name.removesuffix(" range"))
    text = text.replace(kind._describe_range(), _range(kind))
    return click.BadParameter(text, error.ctx, error.param, error.param_hint)


def _range(kind: click.IntRange | click.FloatRange) -> str:
    if kind.max is None:
        return f"≥ {kind.min}"
    return f"≤ {kind.max}" if kind.min is None else f"{kind.min}–{kind.max}"
