"""The layout of `--help` and of wrong options in Spanish; click has no Spanish of its own."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from typing import Final

import click

from pedsup.texts.intended_use import FULL
from pedsup.texts.spanish import catalogue, spanish

PLAIN: Final = "\b"
"""How click marks a paragraph that is not to be wrapped."""
_KINDS: Final = {
    "OPTIONS": "OPCIONES", "COMMAND": "COMANDO", "ARGS": "ARGUMENTOS", "MODEL": "MODELO",
    "INTEGER RANGE": "ENTERO", "INTEGER": "ENTERO", "FLOAT RANGE": "NÚMERO", "FLOAT": "NÚMERO",
    "TEXT": "TEXTO", "FILE": "ARCHIVO", "PATH": "RUTA", "FOLDER": "CARPETA",
    "KEY": "CLAVE",
}  # fmt: skip
_KIND: Final = re.compile(r"\b(?:" + "|".join(_KINDS) + r")\b")
_VERB_ROW: Final = re.compile(r"(\s*pedsup-run \w+\s+)(.+)")


class SpanishFormatter(click.HelpFormatter):
    """Writes Spanish where click gives it English."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(prog, _kinds(args), "Uso: ")

    def write_heading(self, heading: str) -> None:
        super().write_heading(spanish(heading))

    def write_text(self, text: str) -> None:
        text = text.replace(FULL["en"], FULL["es"])
        super().write_text("\n\n".join(map(_paragraph, text.split("\n\n"))))

    def write_dl(
        self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        own = [(_kinds(name), _help(text)) for name, text in rows]
        super().write_dl(own, col_max, col_spacing)


def speak_spanish() -> None:
    """From now on every command of this process shows its help in Spanish."""
    click.Context.formatter_class = SpanishFormatter


def usage_text(error: click.ClickException) -> str:
    """What `error.show()` writes, in Spanish."""
    speak_spanish()
    shown = io.StringIO()
    error.show(shown)
    return spanish(shown.getvalue()).rstrip("\n")


def _kinds(text: str) -> str:
    """Words in capitals that stand for a value."""
    return _KIND.sub(lambda word: _KINDS[word[0]], text)


def _help(text: str) -> str:
    """An option's help, with what click puts behind it: '[default: 180.0; 5<=x<=3600]'."""
    text, bracket, extra = text.partition("  [")
    if text.endswith("..."):
        # click cuts the help of a verb's verbs to the width.
        text = next((e for e, _ in catalogue() if e.startswith(text.removesuffix("..."))), text)
    return spanish(text) + bracket + extra.replace("default: ", "por omisión: ")


def _paragraph(text: str) -> str:
    if not text.startswith(PLAIN):
        return spanish(" ".join(text.split()))
    lines = []
    for line in text.split("\n"):
        row = _VERB_ROW.fullmatch(line)
        lines.append(row[1] + spanish(row[2]) if row else spanish(line))
    return "\n".join(lines)
