"""Phone profiles from `phones.toml`: every figure carries where it is from."""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from pedsup.errors import BadFileError, UsageError

FIGURES: Final = (
    "features", "memory_gb", "memory_available_gb", "bandwidth_gb_s", "storage_read_mb_s",
)  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A value and its source; `unverified` stands in the source where nobody measured it."""

    value: Any
    source: str


@dataclass(frozen=True)
class CoreKind:
    """Cores of one kind."""

    model: str
    count: int
    ghz: float
    big: bool
    source: str


@dataclass(frozen=True)
class Phone:
    """One profile. Bandwidth in 1e9 bytes per second as (low, high), memory in GiB."""

    id: str
    name: str
    chip: str
    storage: str
    cores: tuple[CoreKind, ...]
    figures: dict[str, Figure]

    @property
    def big_cores(self) -> int:
        return sum(kind.count for kind in self.cores if kind.big)

    @property
    def n_cores(self) -> int:
        return sum(kind.count for kind in self.cores)

    @property
    def features(self) -> frozenset[str]:
        return frozenset(self.figures["features"].value)

    @property
    def available_bytes(self) -> int:
        return int(self.figures["memory_available_gb"].value * (1 << 30))

    @property
    def bandwidth(self) -> tuple[float, float]:
        """Bytes per second, low and high."""
        low, high = self.figures["bandwidth_gb_s"].value
        return low * 1e9, high * 1e9

    @property
    def storage_bytes_per_s(self) -> float:
        return float(self.figures["storage_read_mb_s"].value) * 1e6


def read_profiles(path: Path) -> dict[str, Phone]:
    """Profiles from a TOML file.

    Raises:
        BadFileError: not TOML, a figure without a source, an unknown or missing field.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadFileError(f"the profile cannot be read: {error}", where=path) from error
    return _parse(text, path)


@cache
def shipped_profiles() -> dict[str, Phone]:
    """The profiles of this package."""
    file = resources.files("pedsup.phones") / "phones.toml"
    return _parse(file.read_text("utf-8"), "phones.toml")


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


def _parse(text: str, where: object) -> dict[str, Phone]:
    try:
        table = tomllib.loads(text)
        return {name: _phone(name, values) for name, values in table.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadFileError(
            f"no phone profiles ({type(error).__name__}: {error})",
            where=where,
            wanted=f"name, chip, storage, cores and the figures {', '.join(FIGURES)}",
        ) from error


def _phone(name: str, values: dict[str, Any]) -> Phone:
    figures = {key: Figure(**value) for key, value in values["figures"].items()}
    if set(figures) != set(FIGURES):
        raise ValueError(f"{name}: figures {sorted(figures)}")
    if not all(figure.source.strip() for figure in figures.values()):
        raise ValueError(f"{name}: a figure without a source")
    low, high = figures["bandwidth_gb_s"].value
    if not 0 < low <= high:
        raise ValueError(f"{name}: bandwidth from {low} to {high}")
    cores = tuple(CoreKind(**core) for core in values["cores"])
    return Phone(name, values["name"], values["chip"], values["storage"], cores, figures)
