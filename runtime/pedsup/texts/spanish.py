"""English messages in Spanish, found by their English text.

Errors are raised far from where they are shown, by code that does not know who reads them. So they
stay English in the program, in transcripts and in JSON, and are put into Spanish where they are
shown. The catalogue is `spanish.json`: English text to Spanish text, with the same `{words}` where
values stand. A value is put into Spanish too if it is one of our texts, but for those that are the
user's own, such as `{name}` and `{path}` (`OWN`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from pedsup.errors import PedsupError
from pedsup.texts.words import pairs

FILE: Final = Path(__file__).with_name("spanish.json")
LABELS: Final = ("dónde:      ", "se esperaba:", "qué hacer:  ")
"""Of an error's parts, in the order of `PedsupError`."""
MAX_LINE: Final = 4000
"""Longer lines are none of ours."""
OWN: Final = frozenset({"file", "id", "key", "model", "name", "names", "path", "values"})
"""Values that stay as they are: names of files, keys, models, options."""
DEPTH: Final = 4
"""A message, its reason, a part of it."""
_NAME: Final = re.compile(r"\{([a-z]\w*)\}")


class Template(NamedTuple):
    """A text with values in it: `literals` stand around them, one more than `names`."""

    literals: tuple[str, ...]
    names: tuple[str, ...]
    spanish: str

    def values(self, line: str) -> list[str] | None:
        """The values that make the English text this line; None where it is another text."""
        first, last = self.literals[0], self.literals[-1]
        at, end = len(first), len(line) - len(last)
        if at > end or not line.startswith(first) or not line.endswith(last):
            return None
        found = []
        for literal in self.literals[1:-1]:
            here = line.find(literal, at, end)
            if here < 0:
                return None
            found.append(line[at:here])
            at = here + len(literal)
        return [*found, line[at:end]]


def spanish(text: str) -> str:
    """A text in Spanish, line by line; a line that is not in the catalogue stays as it is."""
    return "\n".join(_line(line, DEPTH) for line in text.split("\n"))


def described(error: Exception) -> str:
    """An error in Spanish, in the form that `str(error)` has in English."""
    if not isinstance(error, PedsupError):
        return spanish(str(error))
    parts = (error.where, error.wanted, error.remedy)
    rows = [f"  {label} {spanish(part)}" for label, part in zip(LABELS, parts, strict=True) if part]
    return "\n".join([spanish(error.found), *rows])


def catalogue() -> Iterator[tuple[str, str]]:
    """Every English text with its Spanish one."""
    sections: dict[str, dict[str, str]] = json.loads(FILE.read_text("utf-8"))
    for section in sections.values():
        yield from section.items()
    yield from pairs()


@cache
def _texts() -> tuple[dict[str, str], tuple[Template, ...]]:
    """Texts without values, and those with values, the most telling first."""
    plain, templates = {}, []
    for english, translated in catalogue():
        # Even places are literal, odd ones names.
        parts = _NAME.split(english)
        if len(parts) == 1:
            plain[english] = translated
        else:
            templates.append(Template(tuple(parts[::2]), tuple(parts[1::2]), translated))
    templates.sort(key=lambda template: -sum(map(len, template.literals)))
    return plain, tuple(templates)


@cache
def _beginning(character: str) -> tuple[Template, ...]:
    """The texts with values that can begin so."""
    return tuple(t for t in _texts()[1] if t.literals[0][:1] in ("", character))


def _line(line: str, depth: int) -> str:
    body = line.strip()
    if not body or len(body) > MAX_LINE or depth == 0:
        return line
    found = _looked_up(body, depth)
    return line if found is None else line.replace(body, found, 1)


def _filled(template: Template, values: list[str], depth: int) -> str:
    named = dict(zip(template.names, values, strict=True))
    own = {name: v if name in OWN else _line(v, depth) for name, v in named.items()}
    return _NAME.sub(lambda name: own[name[1]], template.spanish)


def _looked_up(body: str, depth: int) -> str | None:
    plain, _ = _texts()
    if body in plain:
        return plain[body]
    if " " not in body:
        return None
    for template in _beginning(body[0]):
        values = template.values(body)
        if values is not None:
            return _filled(template, values, depth - 1)
    for mark in ("; ", ", "):
        if mark in body:
            return mark.join(_line(part, depth - 1) for part in body.split(mark))
    return None
