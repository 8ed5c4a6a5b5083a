"""The page of a model: a glance, what was not measured, then every document in full."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

from pedsup.texts.safe import label
from pedsup.trust.manifest import Manifest, PartFacts
from pedsup_bench.mcqa import html as mcqa_html
from pedsup_bench.overview import gate_part
from pedsup_bench.overview.collect import Collection, D, Result
from pedsup_bench.overview.missing import not_measured
from pedsup_bench.quality import html as quality_html
from pedsup_bench.report import page, show
from pedsup_bench.report.page import Html
from pedsup_bench.safety import html as safety_html
from pedsup_bench.speed import html as speed_html
from pedsup_bench.speed.render import figure_name, quantity
from pedsup_bench.task import html as task_html


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
        *_part("Gate", found.gates, gate_part.section),
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
            yield [f"mean KL, {name}", show.number(text["kld"]["mean"], ".5f"), at]
            yield [f"same top token, {name}", show.share(text["same_top"], 2), at]
        if task := quality.document.get("task"):
            yield ["trained task, right", show.share(task["model"]["right"]), at]
    for mcqa in found.mcqas:
        for language, f in mcqa.document["figures"].items():
            said = f"{show.share(f.accuracy)} ({show.interval(f.interval)})"
            yield [f"questions right, {language}", said, label(mcqa.path.name)]
    for safety in found.safeties:
        if whole := safety.document["figures"].get("all", {}).get("all"):
            said = f"{show.share(whole['share'])} ({show.interval(whole['interval'])})"
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
