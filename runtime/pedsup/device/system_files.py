"""Small files of /proc and /sys, any of which may be missing, denied, empty or garbage.

An unrooted Android app meets all of these. A reader that is not told so must not crash, nor wait
for a pipe in the file's place, nor read without end.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

LIMIT: Final = 1 << 18
"""Bytes that are read at most: /proc/cpuinfo of 256 cores is smaller."""
MAX_DIGITS: Final = 19
"""Python refuses to convert thousands of digits, and no counter of the kernel has more than 20."""


def text_of(path: Path) -> str:
    """The text of a small file; empty where it cannot be read."""
    try:
        # Opening a named pipe would wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return ""
    parts, room = [], LIMIT
    try:
        while room and (block := os.read(fd, room)):
            parts.append(block)
            room -= len(block)
    except OSError:
        pass  # a folder, an empty pipe, a sensor that is switched off: keep what came
    finally:
        os.close(fd)
    return b"".join(parts).decode("utf-8", "replace")


def whole_number(text: str) -> int | None:
    """The number that the whole text spells in decimal digits; None if it does not."""
    digits = text.strip()
    # str.isdigit alone takes '²' too, which int() does not.
    if len(digits) <= MAX_DIGITS and digits.isascii() and digits.isdigit():
        return int(digits)
    return None


def signed_number(text: str) -> int | None:
    """The same with an optional minus sign: temperatures."""
    stripped = text.strip()
    number = whole_number(stripped.removeprefix("-"))
    return -number if number is not None and stripped.startswith("-") else number


def numbers_of(path: Path) -> dict[str, int]:
    """The whole numbers of lines such as 'MemFree: 12 kB' or 'oom_kill 3', by name; kB in bytes."""
    found = {}
    for line in text_of(path).splitlines():
        name, _, value = line.replace(":", " ", 1).partition(" ")
        number = whole_number(value.partition("kB")[0])
        if number is not None:
            found[name] = number * (1024 if "kB" in value else 1)
    return found


def number_of(path: Path) -> int | None:
    """The number in a file; None if there is none or the file cannot be read."""
    return whole_number(text_of(path))
