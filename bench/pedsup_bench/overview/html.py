"""The page of a model: a glance, what was not measured, then every document in full."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from pedsup.texts.safe import label
from pedsup.trust.manifest import Manifest, PartFacts
from pedsup_bench.gate.check import GateFacts
from pedsup_bench.mcqa import html as mcqa_html
from pedsup_bench.overview.collect import Collection, D, Result
from pedsup_bench.quality import html as quality_html
from pedsup_bench.report import page
from pedsup_bench.report.page import Html
from pedsup_bench.safety import html as safety_html
from pedsup_bench.safety.suite import load_suite
from pedsup_bench.speed import html as speed_html
from pedsup_bench.speed.render import figure_name, quantity
from pedsup_bench.task import html as task_html

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


def report(found: Collection) -> str:
    """The whole page."""
    name = label(found.newest["model"]["file"])
    tasks = [Result(r.path, r.document) for r in found.qualities if "task" in r.document]
    parts = [
        page.heading(1, name),
        page.notice(found.newest["intended_use"]),
        page.model_table(found.newest["model"], found.newest.get("trust")),
        page.heading(2, "At a glance"),
        page.table([["measured", "value", "document"], *_glance(found)], "at a glance"),
        page.heading(2, "What was not measured"),
        page.items(not_measured(found)),
        *_part("Speed and memory", found.runs, lambda one: speed_html.section(one, 4)),
        *_part("What quantization cost", found.qualities, lambda one: quality_html.section(one, 4)),
        *_part("The trained task", tasks, lambda one: task_html.section(one["task"])),
        *_part("Multiple-choice questions", found.mcqas, mcqa_html.section),
        *_part("Safety cases", found.safeties, lambda one: safety_html.section(one, 4)),
        *_part("Gate", found.gates, _gate),
        page.heading(2, "Provenance"),
        *[part for one in found.manifests for part in _manifest(one)],
        *([] if found.manifests else [page.paragraph("No manifest of this file was found.")]),
        page.heading(2, "Files that are not on this page"),
        page.items(f"{label(one.path.name)}: {one.why}" for one in found.left_out),
        page.paragraph("" if found.left_out else "None."),
    ]
    return page.page(f"{name}: all that was measured", parts)


def _part(
    title: str, results: Iterable[Result[D]], section: Callable[[D], Iterable[Html]]
) -> Iterable[Html]:
    """One kind of document, each below its file's name."""
    parts: list[Html] = []
    for result in results:
        parts.append(page.heading(3, _told(result)))
        parts += section(result.document)
    return [page.heading(2, title), *(parts or [page.paragraph("Not measured.")])]


def _gate(document: GateFacts) -> list[Html]:
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


def _told(result: Result[D]) -> str:
    document = result.document
    created = document.get("created") if isinstance(document, Mapping) else None
    return label(result.path.name) + (f", {created}" if created else "")


def _glance(found: Collection) -> Iterable[list[str]]:
    """The figures that people look for first, each with its document."""
    for run in found.runs:
        for key, figure in run.document["figures"].items():
            if figure["unit"] == "tokens/s":
                said = quantity(figure["median"], figure["unit"])
                yield [figure_name(key), said, label(run.path.name)]
    for quality in found.qualities:
        for name, text in quality.document["figures"].items():
            at = label(quality.path.name)
            yield [f"mean KL, {name}", page.number(text["kld"]["mean"], ".5f"), at]
            yield [f"same top token, {name}", page.share(text["same_top"], 2), at]
        if task := quality.document.get("task"):
            yield ["trained task, right", page.share(task.model.right), at]
    for mcqa in found.mcqas:
        for language, f in mcqa.document["figures"].items():
            said = f"{page.share(f.accuracy)} ({page.interval(f.interval)})"
            yield [f"questions right, {language}", said, label(mcqa.path.name)]
    for safety in found.safeties:
        if whole := safety.document["figures"].get("all", {}).get("all"):
            said = f"{page.share(whole['share'])} ({page.interval(whole['interval'])})"
            yield ["safety rules kept", said, label(safety.path.name)]
    for gate in found.gates:
        said = "passed" if gate.document["passed"] else "refused"
        yield ["gate", said, label(gate.path.name)]


def _manifest(result: Result[Manifest]) -> list[Html]:
    """What the file was made of, as its manifest says."""
    manifest, facts = result.document, result.document.facts
    told = {
        "file's SHA-256": manifest.file.sha256,
        "made": manifest.created,
        "digest of the manifest's core": manifest.core_sha256,
        "tensors": str(len(manifest.tensors)),
        "base": _name(facts.base),
        "adapter": _name(facts.adapter),
        "chat template's SHA-256": str(facts.chat_template_sha256 or ""),
        **{f"recipe: {name}": _plain(value) for name, value in manifest.recipe.items()},
    }
    parts = [
        page.heading(3, label(result.path.name)),
        page.pairs(told, f"the manifest {label(result.path.name)}"),
    ]
    inputs = {
        f"{kind}: {name}": _plain(digest)
        for kind, part in (("base", facts.base), ("adapter", facts.adapter))
        if part is not None and isinstance(part.files, Mapping)
        for name, digest in part.files.items()
    }
    if inputs:
        parts.append(page.folded("Digests of what it was made of", [page.pairs(inputs, "inputs")]))
    return parts


def _name(part: PartFacts | None) -> str:
    return "" if part is None else label(str(part.name))


def _plain(value: object) -> str:
    """A value of the manifest, shortened: calibration sketches are long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:199] + "\u2026"
