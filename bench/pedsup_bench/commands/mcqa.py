"""`pedsup-bench mcqa`: multiple-choice questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from pedsup.gguf_file import read_header
from pedsup.optional import require
from pedsup.progress import say
from pedsup_bench.admission import admit, admit_all
from pedsup_bench.mcqa.html import report
from pedsup_bench.mcqa.result import SCHEMA, McqaFacts, McqaFigures
from pedsup_bench.report import document, options, overlap
from pedsup_bench.report.forecast import CHARACTERS_PER_TOKEN, Rates, human_seconds

if TYPE_CHECKING:
    from pedsup_bench.mcqa.questions import Question
    from pedsup_bench.mcqa.score import Scored

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
@options.OUT
@options.HTML
@options.FORCE
@options.JSON
def mcqa(model: Path, **given: Any) -> None:
    """Accuracy on multiple-choice questions, options in all cyclic orders."""
    require("numpy", extra="bench")
    from pedsup_bench.mcqa.questions import default_questions, read_questions
    from pedsup_bench.mcqa.report import by_language
    from pedsup_bench.mcqa.score import score_all

    options.refuse_existing_outputs(given["out"], given["html"], force=given["force"])
    if given["questions"]:
        found = read_questions(
            given["questions"], language=given["language"], answer_base=given["answer_base"]
        )
    else:
        found = default_questions()
    for line, reason in found.rejected[:MAX_SAID]:
        say(f"line {line} left out: {reason}")
    if (more := len(found.rejected) - MAX_SAID) > 0:
        say(f"{more} more lines left out; --json has their number")
    questions = found.questions[: given["limit"]]
    if given["dry_run"]:
        files = {model: given["adapter"]}
        if given["reference"]:
            files[given["reference"]] = None
        click.echo(plan_text(files, questions, options.n_threads(given["threads"])))
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
        **mcqa_document(model, scored, given["reference"], figures),
        "model": document.describe_model(model, given["adapter"]),
        "questions": str(given["questions"].name if given["questions"] else "shipped"),
        "rejected_lines": len(found.rejected),
        "calibrated_on": overlaps,
        "trust": trust,
    }
    options.save(result, given["out"], force=given["force"])
    if given["html"]:
        shown = document.as_written(McqaFacts, result, model)
        options.save_page(report(shown), given["html"], force=given["force"])
    options.show(result, mcqa_table(figures), as_json=given["as_json"])


def plan_text(
    files: Mapping[Path, Path | None], questions: Sequence[Question], n_threads: int
) -> str:
    """What would be asked, after the checks that read no weights.

    Args:
        files: model and reference, each with its adapter.
    """
    languages = Counter(question.language for question in questions)
    prompts = sum(len(question.options) for question in questions)
    tokens = sum(len(q.words) * (1 + len(q.options)) / 2 for q in questions) / CHARACTERS_PER_TOKEN
    lines, seconds = [], 0.0
    for number, (path, adapter) in enumerate(files.items()):
        admit(path, adapter, weights=False, as_before=number == 0)
        rates = Rates.guess(read_header(path), n_threads)
        seconds += rates.load + rates.prompt * tokens
        name = ("model", "reference")[number]
        lines.append(f"{name:<10} {path}{f' with {adapter}' if adapter else ''}")
    by_language = ", ".join(f"{n} {name}" for name, n in sorted(languages.items()))
    return "\n".join([
        *lines,
        f"questions  {len(questions)} ({by_language}), {prompts} prompts for each file",
        f"threads    {n_threads}",
        f"time       roughly {human_seconds(seconds)}, guessed from the files' sizes",
    ])  # fmt: skip


def mcqa_document(
    model: Path, scored: list[Scored], reference: Path | None, figures: dict[str, McqaFigures]
) -> dict[str, object]:
    """The JSON document, with every question's choice."""
    return {
        **document.head(SCHEMA),
        "model": document.describe_model(model),
        "reference": reference and document.describe_model(reference, digest=False),
        "figures": {n: f.to_json() for n, f in figures.items()},
        "answers": [
            {"id": s.question.id, "answer": s.question.answer, "chosen": s.chosen,
             "scores": list(s.scores)}
            for s in scored
        ],
    }  # fmt: skip


def mcqa_table(figures: dict[str, McqaFigures]) -> str:
    """Figures as a table, one row per language."""
    rows = [["language", "n", "right", "accuracy", "95 % interval", "chance", "as printed",
             "consistent", "reference", "changed", "McNemar p"]]  # fmt: skip
    for name, f in figures.items():
        against = f.against
        low, high = f.interval
        rows.append([
            name, str(f.n), str(f.right), f"{f.accuracy:.1%}", f"{low:.1%} to {high:.1%}",
            f"{f.chance:.1%}", f"{f.accuracy_as_printed:.1%}", f"{f.consistent:.1%}",
            *([f"{against.accuracy:.1%}", str(against.changed), f"{against.p_value:.3f}"]
              if against else ["", "", ""]),
        ])  # fmt: skip
    return options.table(rows)
