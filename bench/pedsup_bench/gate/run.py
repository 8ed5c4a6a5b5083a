"""The gate: figures of a file against thresholds; a breach says by how much.

`run_gate` is what the exporter and the Makefile call. It never raises for a breach: the document
it returns says so, and `require_pass` turns that into an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pedsup.errors import BadFileError, UsageError
from pedsup.questions.dialogues import Dialogue, read_dialogues
from pedsup_bench.gate.check import SCHEMA, GateDocument, check_figures
from pedsup_bench.gate.thresholds import ASKED_FOR, Thresholds, read_thresholds, thresholds_for
from pedsup_bench.mcqa.questions import read_questions
from pedsup_bench.mcqa.score import score_all
from pedsup_bench.quality.divergence import TokenFigures
from pedsup_bench.quality.measure import QualityPlan, check, measure
from pedsup_bench.quality.summary import summarize
from pedsup_bench.report import document, overlap
from pedsup_bench.report.overlap import Calibrating
from pedsup_bench.report.texts import default_texts
from pedsup_bench.task.report import measure as measure_task
from pedsup_bench.task.result import TaskFacts
from pedsup_bench.task.score import TaskPlan

QUICK_N_CTX: Final = 256
QUICK_CHUNKS: Final = 4
QUESTIONS_N_CTX: Final = 2048


@dataclass(frozen=True)
class GatePlan:
    """What to check; quick by default: a few windows of the shipped text."""

    model: Path
    reference: Path | None
    thresholds: Path | None = None
    questions: Path | None = None
    """Multiple-choice questions; None leaves that part out."""
    examples: Path | None = None
    """Held-out examples of the adapter's task (JSON lines); None leaves that part out."""
    n_ctx: int = QUICK_N_CTX
    n_chunks: int | None = QUICK_CHUNKS
    n_threads: int = 2
    logits_folder: Path | None = None
    allow_template: bool = False
    """Use a chat template that pedsup does not know, for questions and examples."""
    calibrated_on: tuple[Calibrating, ...] = ()
    """Sketches of the texts that it was calibrated on, if it has no manifest yet."""
    adapter: Path | None = None
    """Applied to the model, not to the reference."""


def run_gate(plan: GatePlan) -> GateDocument:
    """Measure and compare. The document has 'passed', 'checks' and 'figures'.

    Raises:
        BadFileError: the thresholds are not valid, or limit none of the figures measured.
        PedsupError: the file or its reference cannot be judged at all.
    """
    name, limits, examples = _checked(plan)
    tokens = measure(_quality(plan))
    whole = summarize(TokenFigures.concatenate(list(tokens.values())))
    judged = {
        "kld_mean": whole.kld.mean,
        "kld_p99": whole.kld.p99,
        "same_top": whole.same_top,
        "ppl_ratio": whole.ppl_ratio,
    }
    if plan.questions is not None:
        judged["accuracy_drop"] = _accuracy_drop(plan, plan.questions)
    task = _task(plan, examples) if examples else None
    if task is not None:
        judged |= {"task_loss_rise": task.loss_rise, "task_drop": task.drop}
    checks = check_figures(judged, limits)
    per_text = {text: asdict(summarize(figures)) for text, figures in tokens.items()}
    return {
        **document.head(SCHEMA),
        "model": document.describe_model(plan.model, plan.adapter),
        "reference": plan.reference.name if plan.reference else None,
        "file_type": name,
        "passed": bool(checks) and all(check.passed for check in checks),
        "checks": [check.to_json() for check in checks],
        "figures": {**per_text, "all": asdict(whole)},
        "n_ctx": plan.n_ctx,
        "task": asdict(task) if task else None,
    }


def plan_facts(plan: GatePlan) -> dict[str, object]:
    """What would be measured and held against which limits, after the checks of `run_gate` that
    measure nothing. Raises as it does."""
    name, limits, examples = _checked(plan)
    work = _quality(plan)
    check(work)
    asked = read_questions(plan.questions).questions if plan.questions is not None else ()
    left_out = {figure for given, figures in ASKED_FOR.items() for figure in figures
                if not (asked if given == "questions" else examples)}  # fmt: skip
    most = f", at most {plan.n_chunks} per text" if plan.n_chunks else ""
    return {
        "model": f"{plan.model}{f' with {plan.adapter}' if plan.adapter else ''}",
        "reference": str(plan.reference or plan.logits_folder),
        "file type": name,
        "limits": [f"{figure} {limit:g}" for figure, limit in limits.given.items()
                   if figure not in left_out],
        "texts": [f"{text.name} ({len(text.content.split())} words)" for text in work.texts],
        "windows": f"{plan.n_ctx} tokens, second half scored{most}",
        "questions": len(asked),
        "examples": len(examples),
        "threads": plan.n_threads,
    }  # fmt: skip


def _checked(plan: GatePlan) -> tuple[str, Thresholds, tuple[Dialogue, ...]]:
    """The file type, its limits and the examples, after every check that measures nothing."""
    name, limits = thresholds_for(plan.model, read_thresholds(plan.thresholds))
    _require_a_check(plan, name, limits)
    examples = read_dialogues(plan.examples) if plan.examples is not None else ()
    overlap.refuse(
        plan.calibrated_on or overlap.sketches_of(plan.model), _judged_on(plan, examples)
    )
    return name, limits, examples


def _quality(plan: GatePlan) -> QualityPlan:
    return QualityPlan(
        plan.model, plan.reference, default_texts(), n_ctx=plan.n_ctx, n_chunks=plan.n_chunks,
        n_threads=plan.n_threads, logits_folder=plan.logits_folder, adapter=plan.adapter,
    )  # fmt: skip


def _task(plan: GatePlan, examples: tuple[Dialogue, ...]) -> TaskFacts:
    assert plan.examples is not None and plan.reference is not None
    asked = TaskPlan(
        examples,
        n_threads=plan.n_threads,
        allow_template=plan.allow_template,
        adapter=plan.adapter,
    )
    return measure_task(plan.model, plan.reference, plan.examples, asked)


def _judged_on(plan: GatePlan, examples: Sequence[Dialogue]) -> dict[str, str]:
    """Name -> words of each text that the file is judged on."""
    judged = {f"the text '{text.name}'": text.content for text in default_texts()}
    if plan.questions is not None:
        asked = read_questions(plan.questions).questions
        judged[plan.questions.name] = "\n".join(question.words for question in asked)
    if plan.examples is not None:
        judged[plan.examples.name] = "\n".join(example.words for example in examples)
    return judged


def _accuracy_drop(plan: GatePlan, questions: Path) -> float:
    assert plan.reference is not None
    asked = read_questions(questions).questions
    reference, model = (
        sum(
            scored.right
            for scored in score_all(
                path,
                asked,
                n_ctx=QUESTIONS_N_CTX,
                n_threads=plan.n_threads,
                allow_template=plan.allow_template,
                adapter=adapter,
            )
        )
        for path, adapter in ((plan.reference, None), (plan.model, plan.adapter))
    )
    return (reference - model) / len(asked)


def _require_a_check(plan: GatePlan, name: str, limits: Thresholds) -> None:
    """Refuse what would pass unchecked, before anything is measured."""
    limited = {*limits.given}
    inputs = {"questions": plan.questions, "examples": plan.examples}
    for given, names in ASKED_FOR.items():
        if inputs[given] is None:
            limited -= {*names}
            continue
        if plan.reference is None:
            raise UsageError(
                f"{given} need a reference: what is limited is what is lost against it",
                remedy=f"give --reference, or leave --{given} out",
            )
        if not limited & {*names}:
            raise BadFileError(
                f"the thresholds for {name} do not limit {' or '.join(names)}, and {given} were "
                "given",
                where=plan.thresholds or "thresholds.toml",
                remedy=f"add {names[0]}, or leave --{given} out",
            )
    if not limited:
        raise BadFileError(
            f"the thresholds limit nothing that is measured of a {name} file",
            where=plan.thresholds or "thresholds.toml",
            wanted=f"[{name}] or [default] with kld_mean, kld_p99, same_top or ppl_ratio",
        )
