"""The page of a quality run with its trained task, and the task's part in the page of a model."""

from __future__ import annotations

from typing import Final

from pedsup_bench.quality import html as quality_html
from pedsup_bench.report import page, svg
from pedsup_bench.report.page import Html
from pedsup_bench.task.result import QualityWithTask, TaskFacts

_SIDES: Final = ("file", "reference")


def report(document: QualityWithTask) -> str:
    """The whole page."""
    parts = quality_html.section(document, 2)
    if task := document.get("task"):
        parts += [page.heading(2, "The trained task"), *section(task)]
    return page.document_page(document, "what quantization cost", parts)


def section(task: TaskFacts) -> list[Html]:
    """Both sides as bars and as a table, and what was lost."""
    sides = (task.model, task.reference)
    bars = [
        page.share_bar(f"{what}, {name}", value)
        for what, values in (
            ("right", [side.right for side in sides]),
            ("exact", [side.exact for side in sides]),
            ("tokens right", [side.token_accuracy for side in sides]),
        )
        for name, value in zip(_SIDES, values, strict=True)
    ]
    lost = (
        f"Loss {page.number(task.loss_rise, '+.4f')} against the reference (standard error "
        f"{page.number(task.loss_rise_error)}); {task.drop:+.1%} of the examples lost; "
        f"{task.changed} differ, McNemar p = {task.p_value:.3f}."
    )
    return [
        page.paragraph(
            f"{task.n} held-out examples of {task.examples['file']} "
            f"({task.n_choice} with options, {task.n_tokens} tokens of answers; SHA-256 "
            f"{task.examples['sha256']})."
        ),
        Html(svg.bars("the trained task, file and reference", bars, top=1.0)),
        page.table(table_rows(task), "the trained task"),
        page.paragraph(lost),
    ]


def table_rows(task: TaskFacts) -> list[list[str]]:
    """Figures as a table: the file, then the reference."""
    rows = [["task", "examples", "tokens", "loss", "tokens right", "exact", "right"]]
    for name, side in zip(_SIDES, (task.model, task.reference), strict=True):
        rows.append([
            name, str(task.n), str(task.n_tokens), page.number(side.loss),
            page.share(side.token_accuracy, 2), page.share(side.exact),
            page.share(side.right),
        ])  # fmt: skip
    return rows
