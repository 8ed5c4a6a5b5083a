"""What a verb says, as one JSON document or in lines for people, and what it asks first."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping

from pedsup.errors import UsageError
from pedsup.files.envelope import enveloped
from pedsup.files.standard_streams import json_text
from pedsup.messages import Message
from pedsup.progress import print_result
from pedsup.session.consent import YES
from pedsup.texts.language import translated


def print_document(document: Mapping[str, object]) -> None:
    print(json_text(enveloped(document, "pedsup-run")), flush=True)


def show(as_json: bool, document: Mapping[str, object], lines: Iterable[str]) -> None:
    """The result of a verb: its document, or lines in the current language."""
    if as_json:
        print_document(document)
        return
    for line in lines:
        print_result(line)


def confirm(question: Message, *, unasked: UsageError, refused: UsageError) -> None:
    """Go on after a yes.

    Raises:
        UsageError: `unasked` where nobody is there to answer, `refused` after another answer.
    """
    if not sys.stdin.isatty():
        raise unasked
    print(translated(question), end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in YES:
        raise refused
