"""Reading tests/lock.txt: what is locked, for this Python and platform."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

LOCK: Final = Path(__file__).parents[2] / "tests/lock.txt"


@dataclass(frozen=True)
class Locked:
    """One requirement of the lock."""

    name: str
    version: str
    sha256: tuple[str, ...]
    applies: bool
    """Whether its marker is true here."""


def normal(name: str) -> str:
    """A project's name as PyPI compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(path: Path = LOCK) -> list[Locked]:
    """Every requirement of a lock.

    Raises:
        ValueError: a line pins no exact version.
    """
    return list(_parse(path.read_text("utf-8")))


def _parse(text: str) -> Iterator[Locked]:
    joined = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", text))
    for line in joined.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        requirement = Requirement(line.partition("--hash")[0].strip())
        (pin,) = requirement.specifier
        if pin.operator != "==":
            raise ValueError(f"no exact version: {line[:80]}")
        marker = requirement.marker
        yield Locked(
            normal(requirement.name),
            pin.version,
            tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", line)),
            marker is None or marker.evaluate(),
        )
