"""Limits of the figures, by file type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Annotated, Final, TypeAlias

from pedsup.errors import MissingFileError
from pedsup.files.checks import Check
from pedsup.files.records import record, unknown
from pedsup.files.source import Source, parse_toml, read_bytes
from pedsup.gguf_file import read_header
from pedsup.gguf_file.file_types import FILE_TYPES

_NAMES: Final = {kind.number: name for name, kind in FILE_TYPES.items()}
"""By `general.file_type`."""
MAX_BYTES: Final = 1 << 20


def _limit(most: float, why: str) -> Check[float]:
    """A limit from 0 to below `most`, from where on it could stop nothing."""
    return Check(lambda v: 0 <= v < most, f"from 0 to below {most:g}, {why}")


_NATS: Final = _limit(12.5, "which even guessing among 262,144 tokens does not exceed")
_DROP: Final = _limit(1, "which no drop exceeds")
Nats: TypeAlias = Annotated[float, _NATS]
Drop: TypeAlias = Annotated[float, _DROP]


@dataclass(frozen=True)
class Thresholds:
    """Limits of one file type; None does not limit. See thresholds.toml for the units."""

    kld_mean: Nats | None = None
    kld_p99: Annotated[float, _limit(100, "which no file that can be used reaches")] | None = None
    same_top: (
        Annotated[
            float, Check[float](lambda v: 0 < v <= 1, "above 0, which every file reaches, to 1")
        ]
        | None
    ) = None
    ppl_ratio: Annotated[float, _limit(1000, "which means guessing")] | None = None
    accuracy_drop: Drop | None = None
    task_loss_rise: Nats | None = None
    task_drop: Drop | None = None

    @property
    def given(self) -> dict[str, float]:
        """The limits that are set, by figure."""
        return {name: limit for name, limit in asdict(self).items() if limit is not None}


ASKED_FOR: Final = {
    "questions": ("accuracy_drop",), "examples": ("task_loss_rise", "task_drop"),
}  # fmt: skip
"""Figures that are measured only where their input is given."""


def read_thresholds(path: Path | None) -> dict[str, Thresholds]:
    """Thresholds by file type from a TOML file, or the shipped ones.

    Raises:
        MissingFileError: no such file.
        BadFileError: not TOML, no limit at all, an unknown table or figure, or a limit that is
            not a number in the figure's range, or could stop nothing.
    """
    source = Source("the thresholds file", path or "thresholds.toml")
    if path is None:
        file = resources.files("pedsup_bench") / "thresholds.toml"
        return _parse(file.read_bytes(), source)
    if not path.is_file():
        raise MissingFileError("no such file", where=path, remedy="check --thresholds")
    return _parse(read_bytes(path, source, MAX_BYTES), source)


def thresholds_for(model: Path, table: Mapping[str, Thresholds]) -> tuple[str, Thresholds]:
    """The file type of a model and its limits, with [default] for what it does not name."""
    number = read_header(model).metadata.get("general.file_type")
    name = _NAMES.get(number, str(number)) if isinstance(number, int) else "unknown"
    default, own = table.get("default", Thresholds()), table.get(name, Thresholds())
    return name, Thresholds(**{**default.given, **own.given})


def _parse(data: bytes, source: Source) -> dict[str, Thresholds]:
    table, source = parse_toml(data, source)
    known = ["default", *FILE_TYPES]
    for name in table:
        if name not in known:
            raise unknown(name, known, source)
    parsed = {name: record(Thresholds, limits, source, name) for name, limits in table.items()}
    if all(limits == Thresholds() for limits in parsed.values()):
        figures = ", ".join(f.name for f in fields(Thresholds))
        raise source.problem("the thresholds hold no limit", wanted=f"tables with {figures}")
    return parsed
