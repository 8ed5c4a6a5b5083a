"""Progress on stderr: a bar on a terminal, nothing when stderr is a file and the job is short."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from pedsup.errors import PedsupError
from pedsup.escape import escaped, escaped_lines
from pedsup.messages import Message
from pedsup.texts.language import error_text, translated
from pedsup.texts.screen import screen_of

if TYPE_CHECKING:
    from tqdm import tqdm

MAX_LINE: Final = 8192
CONTINUED: Final = "    "
"""Indent of what follows a break in a line of a result or an error."""


def byte_bar(total: int, label: str) -> tqdm:
    """A bar over `total` bytes with rate and time left, for `with`; call its `.update(n_bytes)`.

    The first two seconds show nothing, so that short jobs stay silent.
    """
    from tqdm import tqdm  # not for --version

    return tqdm(
        total=total,
        desc=translated(label),
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        file=sys.stderr,
        delay=2.0,
        mininterval=0.5 if sys.stderr.isatty() else 10.0,
        dynamic_ncols=True,
    )


def say(text: str) -> None:
    """Print progress on stderr; stdout is for results. Values cannot start lines of their own."""
    if isinstance(text, Message) and text.values:
        text = text.mapped(escaped)
    shown = screen_of(sys.stderr).wrapped(escaped_lines(translated(text)))
    print(shown, file=sys.stderr, flush=True)


def print_result(text: str) -> None:
    """Print a result for a person on stdout, no wider than the terminal."""
    print(screen_of(sys.stdout).wrapped(translated(text), CONTINUED), flush=True)


def human_bytes(n: float) -> str:
    """`n` bytes with a binary unit and three significant digits, e.g. '5.29 GiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n) < 1024 or unit == "GiB":
            return f"{n:.0f} B" if unit == "B" else f"{n:.2f} {unit}"
        n /= 1024
    raise AssertionError("unreachable")


def report(error: PedsupError) -> None:
    """Print an error to stderr in the one form that all commands share.

    A line of more than 8 KiB (twice the longest path) is cut.
    """
    lines = (line[:MAX_LINE] for line in error_text(error).split("\n"))
    screen = screen_of(sys.stderr)
    text = screen.wrapped("error: " + "\n".join(lines), CONTINUED)
    print(screen.styled("error:", "error") + text.removeprefix("error:"), file=sys.stderr)
