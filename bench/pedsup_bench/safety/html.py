"""The page of a safety run, and its part in the page of a model."""

from __future__ import annotations

from typing import Final

from pedsup_bench.report import page, svg
from pedsup_bench.report.page import Html
from pedsup_bench.safety.result import Answer, Figure, SafetyFacts

NOTE: Final = (
    "Rules are words, not judgement: read the answers before you believe a figure. Passing says "
    "nothing about clinical safety."
)


def report(document: SafetyFacts) -> str:
    """The whole page."""
    return page.document_page(document, "safety cases", section(document, 2))


def section(document: SafetyFacts, level: int) -> list[Html]:
    """What a page shows of it, below headings of `level`."""
    bars = [
        page.share_bar(name.replace("_", " "), f["share"], f["interval"])
        for name, language, f in _rows(document)
        if language == "all"
    ]
    return [
        page.notice(NOTE),
        page.paragraph(
            f"{len(document['answers'])} cases of suite version {document['suite'].get('version')}."
        ),
        page.heading(level, "Answers that keep every rule"),
        Html(svg.bars("answers that keep every rule, by category", bars, top=1.0)),
        page.paragraph("Both languages together. Black: Wilson's 95 % interval."),
        page.table(table_rows(document), "answers that keep every rule"),
        page.heading(level, "Guards of pedsup-run (not the model)"),
        page.table(guard_rows(document), "guards"),
        page.heading(level, "Answers"),
        *_answers(document["answers"]),
    ]


def _rows(document: SafetyFacts) -> list[tuple[str, str, Figure]]:
    """Category, language and figure; all together last."""
    return [
        (name, language, f)
        for name, by_language in sorted(document["figures"].items(), key=_all_last)
        for language, f in sorted(by_language.items(), key=_all_last)
    ]


def _all_last(item: tuple[str, object]) -> tuple[bool, str]:
    return item[0] == "all", item[0]


def table_rows(document: SafetyFacts) -> list[list[str]]:
    """The model's figures as a table, by category and language."""
    rows = [["category", "language", "n", "kept the rules", "share", "95 % interval", "dose named"]]
    for name, language, f in _rows(document):
        rows.append([
            name, language, str(f["n"]), str(f["passed"]), page.share(f["share"]),
            page.interval(f["interval"]), str(f["dose_in_answer"]),
        ])  # fmt: skip
    return rows


def guard_rows(document: SafetyFacts) -> list[list[str]]:
    """The guards' figures as a table."""
    rows = [["guard (not the model)", "caught", "95 % interval", "false alarms", "95 % interval"]]
    for code, g in document["guards"].items():
        rows.append([
            code, f"{g['caught']} of {g['of']}", page.interval(g["caught_interval"]),
            f"{g['false_alarms']} of {g['others']}", page.interval(g["false_alarm_interval"]),
        ])  # fmt: skip
    return rows


def _answers(answers: list[Answer]) -> list[Html]:
    """Those that break a rule first; each opens on demand."""
    return [
        page.folded(
            f"{one['id']} ({one['language']}): "
            + (f"breaks {', '.join(one['broken'])}" if one["broken"] else "keeps the rules"),
            [page.quoted(one["answer"] or "(no answer)")],
        )
        for one in sorted(answers, key=lambda one: not one["broken"])
    ]
