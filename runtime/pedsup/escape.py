"""Text from files on its way to a terminal: nothing in it may act as a line or a command.

A manifest, a tensor's name or a path may hold line ends, escape sequences or marks that reorder
text. Printed as they are they would look like lines of ours ("Signed by ...") or drive the
terminal; here they are shown as they would be typed in a program: `\\n`, `\\x1b`, `\\u202e`.
"""

from __future__ import annotations


def escaped(text: str) -> str:
    """`text` as one printable line."""
    if text.isprintable():
        return text
    typed = (c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return "".join(typed)


def escaped_lines(text: str) -> str:
    """Text of our own, which may have lines, with values that may not: only line ends are left."""
    return text if text.isprintable() else "\n".join(map(escaped, text.split("\n")))
