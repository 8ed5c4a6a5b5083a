"""`pedsup-bench mcqa`: multiple-choice questions."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from pedsup.progress import say
from pedsup_bench.admission import admit_all
from pedsup_bench.mcqa.html import report, table_rows
from pedsup_bench.mcqa.questions import default_questions, read_questions
from pedsup_bench.mcqa.report import by_language
from pedsup_bench.mcqa.result import SCHEMA, McqaFacts
from pedsup_bench.mcqa.score import Scored, score_all
from pedsup_bench.report import document, options, overlap


@click.command()
@options.MODEL
@options.ADAPTER
@click.option("--reference", type=click.Path(path_type=Path), help="Also ask this file.")
@click.option(
    "--questions", type=click.Path(path_type=Path),
    help="JSON lines in MedMCQA's or PeruMedQA's form. Default: 20 shipped questions.",
)  # fmt: skip
@click.option("--language", help="Language of the file; default: by its form (en, es).")
@click.option("--answer-base", type=click.IntRange(0, 1), help="What MedMCQA's cop counts from.")
@click.option("--limit", type=click.IntRange(1), help="Limit on questions.")
@click.option("--ctx", "n_ctx", default=2048, show_default=True, help="Context in tokens.")
@options.ALLOW_TEMPLATE
@options.THREADS
@options.PAGE_OUTPUTS
def mcqa(model: Path, **given: Any) -> None:
    """Accuracy on multiple-choice questions, options in all cyclic orders."""
    options.refuse_existing_outputs(given["out"], given["html"], force=given["force"])
    if given["questions"]:
        found = read_questions(
            given["questions"], language=given["language"], answer_base=given["answer_base"]
        )
    else:
        found = default_questions()
    for line, reason in found.rejected:
        say(f"line {line} left out: {reason}")
    questions = found.questions[: given["limit"]]
    ask = partial(
        score_all, questions=questions, n_ctx=given["n_ctx"],
        n_threads=options.n_threads(given["threads"]), allow_template=given["allow_template"],
    )  # fmt: skip
    name = given["questions"].name if given["questions"] else "the shipped set"
    overlaps = overlap.warn(model, {name: "\n".join(q.words for q in questions)})
    trust = admit_all(model, given["reference"], given["adapter"])
    scored = ask(model, adapter=given["adapter"])
    figures = by_language(scored, ask(given["reference"]) if given["reference"] else None)
    result = {
        **document.head(SCHEMA),
        "model": document.describe_model(model, given["adapter"]),
        "reference": given["reference"]
        and document.describe_model(given["reference"], digest=False),
        "figures": figures,
        "answers": [_answer(s) for s in scored],
        "questions": str(given["questions"].name if given["questions"] else "shipped"),
        "rejected_lines": len(found.rejected),
        "calibrated_on": overlaps,
        "trust": trust,
    }
    options.put_out(
        result, options.table(table_rows(figures)), given,
        lambda: report(document.as_written(McqaFacts, result, model)),
    )  # fmt: skip


def _answer(scored: Scored) -> dict[str, object]:
    question = scored.question
    return {"id": question.id, "answer": question.answer, "chosen": scored.chosen,
            "scores": list(scored.scores)}  # fmt: skip
