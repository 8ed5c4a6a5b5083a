"""What a search has measured and chosen, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass, field

from pedsup.device.noise import Series
from pedsup.messages import Message
from pedsup.tuning.budget import advised_s
from pedsup.tuning.plan import Candidate, Metric, Speed, Stage


@dataclass
class Row:
    """Everything measured about a candidate in a stage."""

    candidate: Candidate
    speeds: list[Speed] = field(default_factory=list)
    failure: Message | None = None
    dropped: bool = False
    """Clearly slower at first, or more threads than a number that was."""
    seconds: float = 0.0
    """Seconds that the last measurement took."""
    untried: bool = False
    """The time ran out."""

    def series(self, metric: Metric) -> Series:
        """Its speeds, one per round."""
        return Series(tuple(speed.by(metric) for speed in self.speeds))


@dataclass(frozen=True)
class StageResult:
    """What a stage measured and chose."""

    stage: Stage
    rows: tuple[Row, ...]
    chosen: Candidate
    reason: str
    """A key of the words: 'kept', 'better', 'no time', 'failed', 'disturbed'."""
    missing_s: float = 0.0
    """What it would have needed to be decided, beyond what it had."""


@dataclass(frozen=True)
class Outcome:
    """The end of the search."""

    best: Candidate
    stages: tuple[StageResult, ...]
    seconds: float
    speeds: tuple[Speed, ...]
    """Of the best candidate, from the last stage that measured it."""

    @property
    def advised_s(self) -> int | None:
        """The time in which all would be decided; None where all is."""
        missing = sum(stage.missing_s for stage in self.stages)
        return advised_s(self.seconds, missing) if missing else None
