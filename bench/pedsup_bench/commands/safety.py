"""`pedsup-bench safety`: behaviour where a mistake would hurt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import click

from pedsup.errors import UsageError
from pedsup.gguf_file import read_header
from pedsup.settings.schema import Settings
from pedsup_bench.admission import admit, admit_all
from pedsup_bench.report import document, options
from pedsup_bench.report.forecast import CHARACTERS_PER_TOKEN, Rates, human_seconds
from pedsup_bench.safety.html import NOTE, guard_rows, report, table_rows
from pedsup_bench.safety.result import SCHEMA, SafetyFacts
from pedsup_bench.safety.run import (
    SafetyPlan,
    figures,
    guard_figures,
    run,
    settings_for,
)
from pedsup_bench.safety.suite import Case, Suite, load_suite


@click.command()
@options.MODEL
@options.ADAPTER
@click.option("--suite", "suite_file", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="Your own cases (TOML); default: the shipped ones.")  # fmt: skip
@click.option("--category", "categories", multiple=True, help="Only this one; can be repeated.")
@click.option("--language", type=click.Choice(["en", "es"]), help="Only this language.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    help="Limit on cases in all, taken in turn from each category and language.",
)
@click.option("--think", is_flag=True, help="Let a model with a thought channel reason first.")
@click.option("--max-tokens", type=click.IntRange(1), default=160, show_default=True,
              help="Tokens of each answer.")  # fmt: skip
@click.option("--ctx", "n_ctx", default=2048, show_default=True, help="Context in tokens.")
@options.ALLOW_TEMPLATE
@options.DRY_RUN
@options.THREADS
@options.PAGE_OUTPUTS
def safety(model: Path, **given: Any) -> None:
    """Put the safety cases to MODEL; count the answers that keep every rule.

    No judge model: rules are words that must or must not appear in the answer. The guards of
    pedsup-run, which are not part of the model, are counted separately.
    """
    options.refuse_existing_outputs(given["out"], given["html"], force=given["force"])
    suite = load_suite(given["suite_file"])
    choice = Choice(given["categories"], given["language"], given["limit"])
    plan = SafetyPlan(model, suite, _chosen(suite, choice), _settings(given))
    if given["dry_run"]:
        admit(model, given["adapter"], weights=False)
        options.show_plan(plan_facts(plan), as_json=given["as_json"])
        return
    trust = admit_all(model, adapter=given["adapter"])
    judged = run(plan)
    result = {
        **document.head(SCHEMA),
        "model": document.describe_model(model, given["adapter"]),
        "suite": {"version": suite.version, "sha256": suite.sha256, "cases": len(judged)},
        "figures": figures(judged),
        "guards": guard_figures(judged),
        "answers": [asdict(one) for one in judged],
        "trust": trust,
    }
    shown = document.as_written(SafetyFacts, result, model)
    tables = [options.table(rows) for rows in (table_rows(shown), guard_rows(shown))]
    options.put_out(
        result,
        "\n\n".join([*tables, f"{NOTE} --out and --json hold the answers."]),
        given,
        lambda: report(shown),
    )


def plan_facts(plan: SafetyPlan) -> dict[str, object]:
    """What would be asked."""
    settings = plan.settings
    threads, most = settings.threads or 1, settings.max_tokens or 0
    rates = Rates.guess(read_header(plan.model), threads)
    tokens = sum(len(case.prompt) for case in plan.cases) / CHARACTERS_PER_TOKEN
    seconds = rates.load + rates.prompt * tokens + rates.decode * most * len(plan.cases)
    kinds = Counter((case.category, case.language) for case in plan.cases)
    return {
        "model": f"{plan.model}{f' with {settings.adapter}' if settings.adapter else ''}",
        "suite": f"{plan.suite.version}, {len(plan.cases)} of {len(plan.suite.cases)} cases",
        "cases": [f"{n:3} {name} ({language})" for (name, language), n in sorted(kinds.items())],
        "answers": f"up to {most} tokens, reasoning {settings.think}, context {settings.ctx}",
        "threads": threads,
        "time": f"at most about {human_seconds(seconds)}, guessed from the file's size",
    }


@dataclass(frozen=True)
class Choice:
    """Which cases; all of them if nothing is chosen."""

    categories: tuple[str, ...] = ()
    language: str | None = None
    limit: int | None = None


def _settings(given: Mapping[str, Any]) -> Settings:
    settings = settings_for(
        think=given["think"],
        max_tokens=given["max_tokens"],
        ctx=given["n_ctx"],
        threads=options.n_threads(given["threads"]),
        allow_template=given["allow_template"],
    )
    adapter = given["adapter"]
    return replace(settings, adapter=str(adapter)) if adapter else settings


def _chosen(suite: Suite, choice: Choice) -> tuple[Case, ...]:
    """The cases asked for.

    Raises:
        UsageError: an unknown category.
    """
    wanted = choice.categories or tuple(suite.why)
    if unknown := sorted(set(wanted) - set(suite.why)):
        raise UsageError(
            f"the suite has no category '{unknown[0]}'", wanted=f"one of: {', '.join(suite.why)}"
        )
    languages = [choice.language] if choice.language else ["en", "es"]
    groups = [
        [c for c in suite.cases if (c.category, c.language) == (name, language)]
        for language in languages
        for name in dict.fromkeys(wanted)
    ]
    # In turn, so that a few cases are of all kinds; then in the suite's order.
    turns = [case for turn in zip_longest(*groups) for case in turn if case is not None]
    kept = set(turns[: choice.limit])
    return tuple(case for group in groups for case in group if case in kept)
