"""`pedsup-bench mcqa`: multiple-choice questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from pedsup.gguf_file import read_header
from pedsup.progress import say
from pedsup_bench.admission import admit, admit_all
from pedsup_bench.mcqa.html import report, table_rows
from pedsup_bench.mcqa.questions import (
    Question,
    QuestionSet,
    default_questions,
    read_questions,
)
from pedsup_bench.mcqa.result import SCHEMA, McqaFacts
from pedsup_bench.mcqa.score import Scored, by_language, characters_read, score_all
from pedsup_bench.report import document, options, overlap
from pedsup_bench.report.forecast import CHARACTERS_PER_TOKEN, Rates, human_seconds

MAX_SAID: Final = 20
"""Lines of a file that are said to be left out, one by one."""


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
@options.DRY_RUN
@options.THREADS
@options.PAGE_OUTPUTS
def mcqa(model: Path, **given: Any) -> None:
    """Accuracy on multiple-choice questions, options in all cyclic orders."""
    options.refuse_existing_outputs(given["out"], given["html"], force=given["force"])
    found = _questions(given["questions"], given["language"], given["answer_base"])
    questions = found.questions[: given["limit"]]
    if given["dry_run"]:
        files = {model: given["adapter"]}
        if given["reference"]:
            files[given["reference"]] = None
        plan = plan_facts(files, questions, options.n_threads(given["threads"]))
        options.show_plan(plan, as_json=given["as_json"])
        return
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


def _questions(path: Path | None, language: str | None, answer_base: int | None) -> QuestionSet:
    """The file's or the shipped questions, after saying which lines were left out."""
    if path:
        found = read_questions(path, language=language, answer_base=answer_base)
    else:
        found = default_questions()
    for line, reason in found.rejected[:MAX_SAID]:
        say(f"line {line} left out: {reason}")
    if (more := len(found.rejected) - MAX_SAID) > 0:
        say(f"{more} more lines left out; --json has their number")
    return found


def plan_facts(
    files: Mapping[Path, Path | None], questions: Sequence[Question], n_threads: int
) -> dict[str, object]:
    """What would be asked, after the checks that read no weights.

    Args:
        files: model and reference, each with its adapter.
    """
    languages = Counter(question.language for question in questions)
    prompts = sum(len(question.options) for question in questions)
    tokens = sum(map(characters_read, questions)) / CHARACTERS_PER_TOKEN
    plan: dict[str, object] = {}
    seconds = 0.0
    for number, (path, adapter) in enumerate(files.items()):
        admit(path, adapter, weights=False, as_before=number == 0)
        rates = Rates.guess(read_header(path), n_threads)
        seconds += rates.load + rates.prompt * tokens
        name = ("model", "reference")[number]
        plan[name] = f"{path}{f' with {adapter}' if adapter else ''}"
    spoken = ", ".join(f"{n} {name}" for name, n in sorted(languages.items()))
    return {
        **plan,
        "questions": f"{len(questions)} ({spoken}), {prompts} prompts for each file",
        "threads": n_threads,
        "time": f"roughly {human_seconds(seconds)}, guessed from the files' sizes",
    }


def _answer(scored: Scored) -> dict[str, object]:
    question = scored.question
    return {"id": question.id, "answer": question.answer, "chosen": scored.chosen,
            "scores": list(scored.scores)}  # fmt: skip
