"""What was measured, kept per model and device; another engine or device makes it stale.

The file is ours, but it is on a disk: every value is checked like a setting of the user's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Literal

from pedsup.errors import BadFileError
from pedsup.files.paths import config_folder, write_private
from pedsup.files.records import json_record, record
from pedsup.files.source import Source
from pedsup.messages import message, reason_of
from pedsup.settings.schema import Settings

SCHEMA: Final = "pedsup-tuned/1"
FILE: Final = "tuned.json"
NAMES: Final = (
    "threads",
    "threads_batch",
    "pin",
    "batch",
    "ubatch",
    "extra_buffers",
    "mmap",
)
"""The settings that are tuned."""
MAX_BYTES: Final = 1 << 20
MAX_ENTRIES: Final = 64

Stale = Literal["engine", "device"]


def as_options(values: Mapping[str, object]) -> str:
    """E.g. 'threads 4, threads-batch 4, pin off', as on the command line in every language."""
    return ", ".join(f"{name.replace('_', '-')} {_value(v)}" for name, v in values.items())


def _value(value: object) -> str:
    return ("off", "on")[value] if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Tuned:
    """One measured choice."""

    model: str
    """The model's digest (`pedsup.trust.identity`)."""
    device: str
    """Digest of cores and features."""
    engine: str
    """Digest of the engine's kind and version."""
    engine_name: str
    measured: str
    """ISO 8601, UTC."""
    settings: Mapping[str, object]
    """Values by the names of `NAMES`."""
    decode_tps: float
    prompt_tps: float
    noise: float
    """Relative spread of repeated decode measurements."""

    def summary(self) -> str:
        return as_options(self.settings)


@dataclass(frozen=True)
class _Document:
    schema: Literal["pedsup-tuned/1"]
    entries: tuple[Tuned, ...]


@dataclass(frozen=True)
class Lookup:
    """What is known for a model here."""

    tuned: Tuned | None = None
    stale: Stale | None = None
    """There is an entry for the model, but of another engine or device."""
    problem: str | None = None
    """Why the file is not used."""


def tuned_file() -> Path:
    return config_folder() / FILE


def look_up(model: str, device: str, engine: str, file: Path | None = None) -> Lookup:
    """The choice for a model on this device with this engine; never raises."""
    try:
        entries = read_entries(file or tuned_file())
    except BadFileError as error:
        return Lookup(
            problem=message("{reason}; pedsup-run tune writes it again", reason=error.found)
        )
    ours = [entry for entry in entries if entry.model == model]
    here = [entry for entry in ours if entry.device == device]
    for entry in here:
        if entry.engine == engine:
            return Lookup(entry)
    return Lookup(stale="engine" if here else "device" if ours else None)


def keep(entry: Tuned, file: Path | None = None) -> Path:
    """Write a choice, in place of an earlier one for the same model, device and engine.

    Raises:
        OutputError: the folder cannot be made or another process writes the file.
    """
    path = file or tuned_file()
    try:
        old = read_entries(path)
    except BadFileError:
        old = []  # nothing in it can be used any more
    same = (entry.model, entry.device, entry.engine)
    kept = [e for e in old if (e.model, e.device, e.engine) != same][-(MAX_ENTRIES - 1) :]
    document = {"schema": SCHEMA, "entries": [asdict(e) for e in (*kept, entry)]}
    write_private(path, document, remedy="set XDG_CONFIG_HOME to a folder that can be written")
    return path


def read_entries(path: Path) -> list[Tuned]:
    """The entries of the file; none if it does not exist.

    Raises:
        BadFileError: it is another kind of file, or a value is not one that its setting may have.
    """
    if not path.exists():
        return []
    source = Source("the file", path, only_known=False)
    try:
        document = json_record(_Document, path, source, MAX_BYTES)
        return [_checked(entry, source) for entry in document.entries]
    except BadFileError as error:
        raise BadFileError(
            message("the tuned settings cannot be used: {reason}", reason=reason_of(error)),
            where=path,
            wanted=error.wanted or message("a file with the schema {name}", name=SCHEMA),
            remedy="run pedsup-run tune again, or delete the file",
        ) from error


def _checked(entry: Tuned, source: Source) -> Tuned:
    """The entry with values that its settings may have."""
    if not set(entry.settings) <= set(NAMES):
        raise source.problem("an entry has a setting that is not tuned")
    checked = vars(record(Settings, entry.settings, source))
    return replace(entry, settings={name: checked[name] for name in entry.settings})
