"""Makes text from models and files safe to print."""

from __future__ import annotations

import re
from typing import Final

MAX_LABEL: Final = 120
"""How many characters of a name from a file are shown."""
# C0 and C1 controls (a model could otherwise move the cursor or set the window's title) and the
# marks that reorder text. Newline and tab stay.
_UNSAFE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def clean(text_: str) -> str:
    """Text from a model or a file, safe to print on a terminal."""
    return _UNSAFE.sub("", text_)


def label(text_: str) -> str:
    """A name from a file as one short line: a longer one could end in a line that looks like ours,
    'Signed by ...', or hide the warning below it."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text_[: 4 * MAX_LABEL]).split())
    return line if len(line) <= MAX_LABEL else line[: MAX_LABEL - 1] + "\u2026"
