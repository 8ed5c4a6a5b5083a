"""Times as they are written in our files."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def local(time: str) -> str:
    """A time of our files as a clock here shows it, to the minute; other text as it is."""
    try:
        return f"{datetime.fromisoformat(time).astimezone():%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError, OSError):
        return time


def is_before(one: str, other: str) -> bool:
    """Whether a time of our files is before another; False if either is not a time."""
    try:
        return datetime.fromisoformat(one) < datetime.fromisoformat(other)
    except (ValueError, TypeError):  # the second: only one of them names its time zone
        return False
