"""What every document of `--json` begins with: see docs/json-envelope.schema.json.

The fields of a document are beside these, not below them, so that what a script read before is
still where it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from pedsup import __version__


class Program(TypedDict):
    """Which program wrote a document."""

    name: str
    version: str


class Envelope(TypedDict):
    """The kind of document. `schema` is 'pedsup-KIND/VERSION' in one word."""

    schema: str
    kind: str
    version: int
    program: Program
    warnings: list[str]
    """Sentences for people, in English."""


def envelope(schema: str, program: str) -> Envelope:
    """The envelope of a document.

    Args:
        schema: 'pedsup-KIND/VERSION'.
        program: the command that writes it.
    """
    kind, _, version = schema.removeprefix("pedsup-").partition("/")
    return {
        "schema": schema,
        "kind": kind,
        "version": int(version),
        "program": {"name": program, "version": __version__},
        "warnings": [],
    }


def enveloped(
    document: Mapping[str, object], program: str, *, schema: str | None = None
) -> dict[str, object]:
    """A document in its envelope; its own `schema` and `warnings` stay.

    Args:
        schema: where the document does not say it.
    """
    found = schema or str(document["schema"])
    return {**envelope(found, program), **document}
