"""What was not measured of a model, or only in part: a page must not look complete."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pedsup_bench.overview.collect import Collection
from pedsup_bench.safety.suite import load_suite

NEVER: Final = (
    "Clinical quality and safety: no figure here measures them. Rules are words, questions have "
    "given answers, and no clinician has read the answers for this page."
)


def not_measured(found: Collection) -> list[str]:
    """One sentence each, with the command that measures it."""
    return [*_speed(found), *_quality(found), *_tasks(found), *_origin(found), NEVER]


def _speed(found: Collection) -> Iterator[str]:
    runs = [result.document for result in found.runs]
    if not runs:
        yield "Speed and memory: pedsup-bench run MODEL --out run.json"
        return
    if not any(run["device"]["android"] for run in runs):
        yield "Speed on a phone: all runs are of computers (pedsup-bench run on the phone)."
    if not any("load_cold" in run["figures"] for run in runs):
        yield "Cold start: no load began with the file out of the page cache."
    if not any(run["sustained"] for run in runs):
        yield "Throttling: pedsup-bench run MODEL --sustained 300"


def _quality(found: Collection) -> Iterator[str]:
    if not found.qualities:
        yield "What quantization cost: pedsup-bench quality MODEL --reference F16 --out FILE"
    if not found.gates:
        yield "Thresholds: pedsup-bench gate MODEL --reference F16 --out gate.json"


def _tasks(found: Collection) -> Iterator[str]:
    if not any("task" in result.document for result in found.qualities):
        yield "The trained task: pedsup-bench quality MODEL --reference F16 --examples FILE"
    if not found.mcqas:
        yield "Multiple-choice questions: pedsup-bench mcqa MODEL --out mcqa.json"
    elif all(result.document["questions"] == "shipped" for result in found.mcqas):
        yield "Knowledge: the shipped questions only show that it works (mcqa --questions FILE)."
    suite = load_suite()
    if not found.safeties:
        yield "Safety cases: pedsup-bench safety MODEL --out safety.json"
    for result in found.safeties:
        asked = len(result.document["answers"])
        ours = result.document["suite"].get("sha256") == suite.sha256
        if ours and asked < len(suite.cases):
            yield f"Safety cases: {asked} of {len(suite.cases)} were asked ({result.path.name})."


def _origin(found: Collection) -> Iterator[str]:
    known = {result.document.file.sha256 for result in found.manifests}
    if found.identity.model not in known:
        yield "Provenance: the model's .manifest.json is not in the folder."
    if found.identity.adapter and found.identity.adapter not in known:
        yield "Provenance: the adapter's .manifest.json is not in the folder."
