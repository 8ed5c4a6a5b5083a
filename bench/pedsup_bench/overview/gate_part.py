"""The gate in the page of a model."""

from __future__ import annotations

from typing import TypedDict

from pedsup_bench.report import page
from pedsup_bench.report.document import Shown
from pedsup_bench.report.page import Html


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


def section(document: GateFacts) -> list[Html]:
    """Verdict and checks."""
    verdict = "passed" if document["passed"] else "refused"
    against = document["reference"] or "kept log-probabilities"
    return [
        page.paragraph(f"{document['file_type']}, against {against}: {verdict}."),
        page.items(
            f"{'kept' if check['passed'] else 'BREACH'}: {check['sentence']}"
            for check in document["checks"]
        ),
    ]
