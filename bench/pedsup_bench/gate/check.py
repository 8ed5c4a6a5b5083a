"""One figure against its limit, and the document that the checks make."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypedDict

from pedsup.errors import PedsupError
from pedsup.exit_codes import ExitCode
from pedsup_bench.gate.thresholds import Thresholds
from pedsup_bench.report import document
from pedsup_bench.report.document import Shown

SCHEMA: Final = "pedsup-bench-gate/1"


class GateError(PedsupError):
    """A model does not reach the thresholds it must reach to be published."""

    exit_code = ExitCode.GATE


@dataclass(frozen=True)
class Check:
    """One figure against its limit."""

    figure: str
    value: float
    limit: float
    direction: Literal["at most", "at least"]

    @property
    def passed(self) -> bool:
        if self.direction == "at most":
            return self.value <= self.limit
        return self.value >= self.limit

    @property
    def sentence(self) -> str:
        """The figure, and for a breach how far it is beyond the limit."""
        if not math.isfinite(self.value):
            kind = "not a number" if math.isnan(self.value) else "infinite"
            return (
                f"{self.figure} is {kind}, {self.direction} {self.limit:.5g} is allowed: the model"
                " or its reference gave logits that are not finite"
            )
        text = f"{self.figure} is {self.value:.5g}, {self.direction} {self.limit:.5g} is allowed"
        if self.passed:
            return text
        by = abs(self.value - self.limit)
        share = f" ({by / self.limit:.0%} of the limit)" if self.limit else ""
        return f"{text}: off by {by:.3g}{share}"

    def to_json(self) -> CheckFacts:
        return {
            "figure": self.figure,
            "value": self.value,
            "limit": self.limit,
            "direction": self.direction,
            "passed": self.passed,
            "sentence": self.sentence,
        }


def check_figures(figures: Mapping[str, float], limits: Thresholds) -> list[Check]:
    """One check per figure that has a limit."""
    given = limits.given
    return [
        Check(name, value, given[name], "at least" if name == "same_top" else "at most")
        for name, value in figures.items()
        if name in given
    ]


class CheckFacts(TypedDict):
    """A check in JSON."""

    figure: str
    value: float
    limit: float
    direction: Literal["at most", "at least"]
    passed: bool
    sentence: str


class GateDocument(document.Head):
    """The document of `pedsup-bench gate`."""

    model: document.ModelFacts
    reference: str | None
    file_type: str
    passed: bool
    checks: list[CheckFacts]
    figures: dict[str, dict[str, object]]
    task: dict[str, object] | None
    n_ctx: int


class CheckShown(TypedDict):
    """One figure against its limit; `value` is None if it was not a number."""

    passed: bool
    sentence: str


class GateFacts(Shown):
    """What is shown of the document of `pedsup-bench gate`."""

    file_type: str
    passed: bool
    reference: str | None
    checks: list[CheckShown]


def require_pass(result: GateDocument) -> None:
    """Raise `GateError` naming every breach of a gate document, or that it checked nothing."""
    if not result["checks"]:
        raise GateError(
            f"nothing was checked of {result['model']['file']}",
            wanted="at least one threshold",
            remedy="give a thresholds file with limits, or none for the shipped one",
        )
    broken = [check["sentence"] for check in result["checks"] if not check["passed"]]
    if broken:
        raise GateError(
            f"{result['model']['file']} does not reach {len(broken)} of "
            f"{len(result['checks'])} thresholds",
            where=broken,
            wanted=f"the thresholds for {result['file_type']}",
            remedy="export with a larger type or an importance matrix, or change the thresholds "
            "file if you decide that this is good enough",
        )
