"""Uses measured values for the settings that the user did not give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pedsup.messages import Message, joined, message
from pedsup.settings.load import Origin, with_values
from pedsup.settings.schema import Settings
from pedsup.tuning.store import NAMES, Lookup


@dataclass(frozen=True)
class Applied:
    """Settings with measured values in them, and where each value came from."""

    settings: Settings
    origins: Mapping[str, Origin]
    lookup: Lookup


def apply_tuned(settings: Settings, origins: Mapping[str, Origin], lookup: Lookup) -> Applied:
    """Command line and settings file win over what was measured, that over the defaults.

    Threads, their number for prompts and their cores were measured together: with a number of
    threads of the user's own none of the three is taken.
    """
    if (tuned := lookup.tuned) is None or not settings.tuned:
        return Applied(settings, origins, lookup)
    taken = {name: v for name, v in tuned.settings.items() if name not in origins}
    if "threads" in origins:
        taken = {n: v for n, v in taken.items() if n not in ("threads_batch", "pin")}
    marks: dict[str, Origin] = dict.fromkeys(taken, "tuned")
    return Applied(
        with_values(settings, taken, where=message("the tuned settings")),
        {**origins, **marks},
        lookup,
    )


def origin_text(origins: Mapping[str, Origin]) -> Message:
    """Where the tunable values came from, in one line."""
    groups: dict[Origin, list[str]] = {}
    for name in NAMES:
        groups.setdefault(origins.get(name, "default"), []).append(name.replace("_", "-"))
    return joined(
        "; ",
        (message("{names}: {origin}", names=", ".join(names), origin=_ORIGINS[origin])
         for origin, names in groups.items()),
    )  # fmt: skip


_ORIGINS: Final[dict[Origin, Message]] = {
    "command line": message("command line"),
    "settings file": message("settings file"),
    "a program": message("a program"),
    "tuned": message("tuned"),
    "default": message("default"),
}
