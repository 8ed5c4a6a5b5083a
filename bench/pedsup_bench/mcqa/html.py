"""The page of a multiple-choice run, and its part in the page of a model."""

from __future__ import annotations

from pedsup_bench.mcqa.result import McqaFacts, McqaFigures
from pedsup_bench.report import page, svg
from pedsup_bench.report.page import Html


def report(document: McqaFacts) -> str:
    """The whole page."""
    parts = [page.heading(2, "Accuracy"), *section(document)]
    return page.document_page(document, "multiple-choice questions", parts)


def section(document: McqaFacts) -> list[Html]:
    """What a page shows of it."""
    figures = document["figures"]
    reference = document.get("reference")
    beside = f" Reference: {reference['file']}." if reference else ""
    return [
        page.paragraph(f"Questions: {document['questions']}.{beside}"),
        Html(svg.bars("accuracy by language", _bars(figures), top=1.0)),
        page.paragraph("Black: Wilson's 95 % interval. Orange: what guessing gives."),
        page.table(table_rows(figures), "accuracy by language"),
        page.items(page.flattered(document.get("calibrated_on", []))),
    ]


def _bars(figures: dict[str, McqaFigures]) -> list[svg.Bar]:
    bars = []
    for name, f in figures.items():
        bars.append(page.share_bar(name, f.accuracy, f.interval, f.chance))
        if against := f.against:
            bars.append(page.share_bar(f"{name}, reference", against.accuracy))
    return bars


def table_rows(figures: dict[str, McqaFigures]) -> list[list[str]]:
    """Figures as a table, one row per language."""
    rows = [["language", "n", "right", "accuracy", "95 % interval", "chance", "as printed",
             "consistent", "reference", "changed", "McNemar p"]]  # fmt: skip
    for name, f in figures.items():
        against = f.against
        beside = ["", "", ""]
        if against is not None:
            beside = [
                page.share(against.accuracy), str(against.changed),
                f"{against.p_value:.3f}",
            ]  # fmt: skip
        rows.append([
            name, str(f.n), str(f.right), page.share(f.accuracy),
            page.interval(f.interval), page.share(f.chance),
            page.share(f.accuracy_as_printed), page.share(f.consistent), *beside,
        ])  # fmt: skip
    return rows
