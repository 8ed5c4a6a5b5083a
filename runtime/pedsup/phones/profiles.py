"""Phone profiles from `phones.toml`: every figure carries its source."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Final

from pedsup.errors import UsageError
from pedsup.files.checks import NotEmpty, at_least
from pedsup.files.records import record
from pedsup.files.source import Source, parse_toml, read_bytes

MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Figure:
    """A number and its source; the source says `unverified` if nobody measured it."""

    value: float
    source: NotEmpty


@dataclass(frozen=True)
class Span:
    """A number from low to high, and its source."""

    value: tuple[float, float]
    source: NotEmpty

    def __post_init__(self) -> None:
        low, high = self.value
        if not 0 < low <= high:
            raise ValueError(f"the value is from {low:g} to {high:g}")


@dataclass(frozen=True)
class Features:
    """Names of features as the kernel spells them, and their source."""

    value: tuple[str, ...]
    source: NotEmpty


@dataclass(frozen=True)
class CoreKind:
    """The cores of one kind."""

    model: str
    count: Annotated[int, at_least(1)]
    ghz: float
    big: bool
    source: NotEmpty


@dataclass(frozen=True)
class Figures:
    """Memory in GiB, bandwidth in 1e9 bytes per second as (low, high), storage in 1e6."""

    features: Features
    memory_gb: Figure
    memory_available_gb: Figure
    bandwidth_gb_s: Span
    storage_read_mb_s: Figure


@dataclass(frozen=True)
class _Entry:
    """A profile as the file has it."""

    name: str
    chip: str
    storage: str
    cores: tuple[CoreKind, ...]
    figures: Figures


@dataclass(frozen=True)
class Phone(_Entry):
    """One phone."""

    id: str

    @property
    def big_cores(self) -> int:
        return sum(kind.count for kind in self.cores if kind.big)

    @property
    def features(self) -> frozenset[str]:
        return frozenset(self.figures.features.value)

    @property
    def available_bytes(self) -> int:
        return int(self.figures.memory_available_gb.value * (1 << 30))

    @property
    def bandwidth(self) -> tuple[float, float]:
        """Bytes per second, low and high."""
        low, high = self.figures.bandwidth_gb_s.value
        return low * 1e9, high * 1e9

    @property
    def storage_bytes_per_s(self) -> float:
        return self.figures.storage_read_mb_s.value * 1e6


def read_profiles(path: Path) -> dict[str, Phone]:
    """Profiles from a TOML file.

    Raises:
        BadFileError: not TOML, a figure without a source, an unknown or missing key.
    """
    source = Source("the file of phone profiles", path)
    return _parse(read_bytes(path, source, MAX_BYTES), source)


@cache
def shipped_profiles() -> dict[str, Phone]:
    file = resources.files("pedsup.phones") / "phones.toml"
    return _parse(file.read_bytes(), Source("the file of phone profiles", file.name))


def profile(name: str) -> Phone:
    """A shipped profile by id or by a part of its name or chip, or the one phone of a TOML file.

    Case and punctuation do not count: 'Galaxy A15', 'galaxy-a15' and 'dimensity 6100+' are the
    same phone.

    Raises:
        UsageError: no such phone, or several; the message lists them.
    """
    if name.endswith(".toml"):
        found = read_profiles(Path(name))
        if len(found) != 1:
            raise UsageError(f"{len(found)} phones in the file", where=name, wanted="one")
        return next(iter(found.values()))
    phones = shipped_profiles()
    if name in phones:
        return phones[name]
    matches = [phone for phone in phones.values() if _named(phone, name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UsageError(
            f"several phones are named '{name}'",
            wanted="one of: " + ", ".join(phone.id for phone in matches),
            remedy="give the whole name",
        )
    near = difflib.get_close_matches(name.lower(), phones, n=1)
    known = [f"{phone.id:<18}{phone.name}, {phone.chip}" for phone in phones.values()]
    raise UsageError(
        f"no phone profile '{name}'" + (f": did you mean '{near[0]}'?" if near else ""),
        wanted=known,
        remedy="choose one of these, or give a TOML file of the same form",
    )


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _named(phone: Phone, name: str) -> bool:
    """Whether the words of `name` stand together, in order, in what the phone is called."""
    words = _words(name)
    if all(word.isdecimal() for word in words):
        return False
    for text in (phone.id, phone.name, phone.chip):
        own = _words(text)
        if any(own[i : i + len(words)] == words for i in range(len(own))):
            return True
    return False


def _parse(data: bytes, source: Source) -> dict[str, Phone]:
    table, source = parse_toml(data, source)
    entries = {name: record(_Entry, entry, source, name) for name, entry in table.items()}
    return {name: Phone(**vars(entry), id=name) for name, entry in entries.items()}
