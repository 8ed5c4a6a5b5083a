"""`pedsup-bench quality`: what quantization changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pedsup.errors import UsageError
from pedsup.progress import say
from pedsup.questions.dialogues import read_dialogues
from pedsup_bench.admission import admit_all, reference_notes
from pedsup_bench.quality.divergence import TokenFigures
from pedsup_bench.quality.html import table_rows
from pedsup_bench.quality.measure import QualityPlan, check, measure
from pedsup_bench.quality.result import SCHEMA
from pedsup_bench.quality.summary import QualityFigures, summarize
from pedsup_bench.report import document, options, overlap
from pedsup_bench.report.texts import parse_texts
from pedsup_bench.task.html import report
from pedsup_bench.task.html import table_rows as task_rows
from pedsup_bench.task.report import measure as measure_task
from pedsup_bench.task.result import QualityWithTask
from pedsup_bench.task.score import TaskPlan


@click.command()
@options.MODEL
@options.ADAPTER
@click.option(
    "--reference", type=click.Path(path_type=Path), help="The 16- or 32-bit file it was made from."
)
@click.option(
    "--text", "texts", multiple=True, metavar="[NAME=]FILE",
    help="Text to measure on; can be repeated. Default: shipped English and Spanish prose.",
)  # fmt: skip
@click.option(
    "--examples", type=click.Path(path_type=Path),
    help="Also measure on held-out examples of the adapter's task (JSON lines): loss of the "
    "answers, exact match, options chosen.",
)  # fmt: skip
@click.option("--ctx", "n_ctx", default=512, show_default=True, help="Tokens per window.")
@click.option("--chunks", "n_chunks", type=click.IntRange(1), help="Limit on windows.")
@click.option(
    "--logits", "logits_folder", type=click.Path(path_type=Path, file_okay=False),
    help="Keep the reference's log-probabilities in this folder and use those that are there: "
    "the reference is then run once for many files. Format of llama-perplexity.",
)  # fmt: skip
@click.option("--fresh", is_flag=True, help="Start over instead of continuing an interrupted run.")
@options.ALLOW_TEMPLATE
@options.DRY_RUN
@options.THREADS
@options.PAGE_OUTPUTS
def quality(model: Path, **given: Any) -> None:
    """KL divergence, top-token agreement and perplexity of MODEL against its reference.

    Give the same command again to continue an interrupted run.
    """
    plan = _plan(model, given)
    options.refuse_existing_outputs(given["out"], given["html"], force=given["force"])
    check(plan)
    if plan.reference is not None:
        for note in reference_notes(model, plan.reference, plan.adapter):
            say(f"warning: {note}")
    if given["dry_run"]:
        options.show_plan(plan_facts(plan), as_json=given["as_json"])
        return
    task = _read_task(plan, given["examples"], allow_template=given["allow_template"])
    judged = {f"the text '{text.name}'": text.content for text in plan.texts}
    if task is not None:
        judged[given["examples"].name] = "\n".join(example.words for example in task.examples)
    overlaps = overlap.warn(model, judged)
    trust = admit_all(model, plan.reference, plan.adapter)
    figures = quality_figures(measure(plan))
    result = {**quality_document(plan, figures), "calibrated_on": overlaps, "trust": trust}
    if task is not None and plan.reference is not None:
        result["task"] = measure_task(model, plan.reference, given["examples"], task)
    shown = document.as_written(QualityWithTask, result, model)
    table = options.table(table_rows(shown["figures"]))
    if of_task := shown.get("task"):
        table += f"\n\n{options.table(task_rows(of_task))}"
    say(_legend(plan))
    options.put_out(result, table, given, lambda: report(shown))


def _plan(model: Path, given: dict[str, Any]) -> QualityPlan:
    return QualityPlan(
        model=model,
        reference=given["reference"],
        texts=parse_texts(given["texts"]),
        n_ctx=given["n_ctx"],
        n_chunks=given["n_chunks"],
        n_threads=options.n_threads(given["threads"]),
        logits_folder=given["logits_folder"],
        fresh=given["fresh"],
        adapter=given["adapter"],
    )


def _read_task(
    plan: QualityPlan, examples: Path | None, *, allow_template: bool
) -> TaskPlan | None:
    if examples is None:
        return None
    if plan.reference is None:
        raise UsageError(
            "--examples needs the reference itself, not only its log-probabilities",
            remedy="give --reference",
        )
    return TaskPlan(
        read_dialogues(examples),
        n_threads=plan.n_threads,
        allow_template=allow_template,
        adapter=plan.adapter,
    )


def plan_facts(plan: QualityPlan) -> dict[str, object]:
    """What would be measured."""
    most = f", at most {plan.n_chunks} per text" if plan.n_chunks else ""
    return {
        "model": f"{plan.model}{f' with {plan.adapter}' if plan.adapter else ''}",
        "reference": str(plan.reference or plan.logits_folder),
        "texts": [f"{t.name} ({len(t.content.split())} words)" for t in plan.texts],
        "windows": f"{plan.n_ctx} tokens, second half scored{most}",
        "threads": plan.n_threads,
    }


def quality_figures(tokens: dict[str, TokenFigures]) -> dict[str, QualityFigures]:
    """Figures per text, and 'all' where there are several."""
    figures = {name: summarize(found) for name, found in tokens.items()}
    if len(tokens) > 1:
        figures["all"] = summarize(TokenFigures.concatenate(list(tokens.values())))
    return figures


def quality_document(plan: QualityPlan, figures: dict[str, QualityFigures]) -> dict[str, object]:
    """The JSON document."""
    return {
        **document.head(SCHEMA),
        "model": document.describe_model(plan.model, plan.adapter),
        "reference": plan.reference
        and document.describe_model(plan.reference, digest=plan.reference.stat().st_size < 1 << 34),
        "n_ctx": plan.n_ctx,
        "scored": "second half of each window",
        "texts": {
            t.name: {"sha256": t.sha256, "words": len(t.content.split())} for t in plan.texts
        },
        "figures": figures,
    }


def _legend(plan: QualityPlan) -> str:
    return (
        f"KL in nats per token, reference against {plan.model.name}; ± is one standard error; "
        "a flip is a position whose most probable token changed"
    )
