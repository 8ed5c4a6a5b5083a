"""What all four commands share of click: help that is not cut, ranges that people can read."""

from __future__ import annotations

import click

from pedsup.texts.language import translated


class Commands(click.Group):
    """A group whose help shows each command's whole first sentence, wrapped, on any terminal.

    click cuts it to one line: on a phone's 45 columns after three words.
    """

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(n, c.get_short_help_str(limit=1000)) for n, c in found if c and not c.hidden]
        if rows:
            with formatter.section(translated("Commands")):
                formatter.write_dl(rows)


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
