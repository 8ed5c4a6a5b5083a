"""The gate: figures of a file against thresholds; a breach says by how much.

`run_gate` is what the exporter and the Makefile call. It never raises for a breach: the document
it returns says so, and `require_pass` turns that into an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias, TypedDict

from pedsup.errors import BadFileError, MissingFileError, UsageError
from pedsup.files.checks import at_least, within
from pedsup.files.records import record, unknown
from pedsup.files.source import Source, parse_toml, read_bytes
from pedsup.gguf_file import read_header
from pedsup.questions.dialogues import Dialogue, read_dialogues
from pedsup_bench.report import document
from pedsup_bench.report.errors import GateError
from pedsup_bench.report.overlap import Calibrating

SCHEMA: Final = "pedsup-bench-gate/1"
FILE_TYPES: Final = {
    0: "F32", 1: "F16", 2: "Q4_0", 7: "Q8_0", 10: "Q2_K", 12: "Q3_K_M", 14: "Q4_K_S", 15: "Q4_K_M",
    17: "Q5_K_M", 18: "Q6_K", 30: "IQ4_XS", 32: "BF16",
}  # fmt: skip
"""`general.file_type` (llama.cpp's `enum llama_ftype`) of the types pedsup exports."""
MAX_BYTES: Final = 1 << 20
QUICK_N_CTX: Final = 256
QUICK_CHUNKS: Final = 4


Limit: TypeAlias = Annotated[float, at_least(0)]


@dataclass(frozen=True)
class Thresholds:
    """Limits of one file type; None does not limit. See thresholds.toml for the units."""

    kld_mean: Limit | None = None
    kld_p99: Limit | None = None
    same_top: Annotated[float, within(0, 1)] | None = None
    ppl_ratio: Limit | None = None
    accuracy_drop: Limit | None = None
    task_loss_rise: Limit | None = None
    task_drop: Limit | None = None


ASKED_FOR: Final = {
    "questions": ("accuracy_drop",), "examples": ("task_loss_rise", "task_drop"),
}  # fmt: skip
"""Figures that are measured only where their input is given."""


@dataclass(frozen=True)
class Check:
    """One figure against its limit."""

    figure: str
    value: float
    limit: float
    direction: Literal["at most", "at least"]

    @property
    def passed(self) -> bool:
        if self.direction == "at most":
            return self.value <= self.limit
        return self.value >= self.limit

    @property
    def sentence(self) -> str:
        """The figure, and for a breach how far it is on the wrong side."""
        if not math.isfinite(self.value):
            kind = "not a number" if math.isnan(self.value) else "infinite"
            return (
                f"{self.figure} is {kind}, {self.direction} {self.limit:.5g} is allowed: the model"
                " or its reference gave logits that are not finite"
            )
        text = f"{self.figure} is {self.value:.5g}, {self.direction} {self.limit:.5g} is allowed"
        if self.passed:
            return text
        by = abs(self.value - self.limit)
        share = f" ({by / self.limit:.0%} of the limit)" if self.limit else ""
        return f"{text}: off by {by:.3g}{share}"

    def to_json(self) -> CheckFacts:
        return {
            "figure": self.figure,
            "value": self.value,
            "limit": self.limit,
            "direction": self.direction,
            "passed": self.passed,
            "sentence": self.sentence,
        }


def read_thresholds(path: Path | None) -> dict[str, Thresholds]:
    """Thresholds by file type from a TOML file, or the shipped ones.

    Raises:
        MissingFileError: no such file.
        BadFileError: not TOML, no limit at all, an unknown table or figure, or a limit that is
            not a finite number in the figure's range.
    """
    source = Source("the thresholds file", path or "thresholds.toml")
    if path is None:
        file = resources.files("pedsup_bench") / "thresholds.toml"
        return _parse(file.read_bytes(), source)
    if not path.is_file():
        raise MissingFileError("no such file", where=path, remedy="check --thresholds")
    return _parse(read_bytes(path, source, MAX_BYTES), source)


def thresholds_for(model: Path, table: Mapping[str, Thresholds]) -> tuple[str, Thresholds]:
    """The file type of a model and its limits, with [default] for what it does not name."""
    number = read_header(model).metadata.get("general.file_type")
    name = FILE_TYPES.get(number, str(number)) if isinstance(number, int) else "unknown"
    default, own = table.get("default", Thresholds()), table.get(name, Thresholds())
    merged = {
        f.name: getattr(default, f.name) if getattr(own, f.name) is None else getattr(own, f.name)
        for f in fields(Thresholds)
    }
    return name, Thresholds(**merged)


def check_figures(figures: Mapping[str, float], limits: Thresholds) -> list[Check]:
    """One check per figure that has a limit."""
    checks = []
    for name, value in figures.items():
        limit = getattr(limits, name)
        if limit is not None:
            direction: Literal["at most", "at least"] = (
                "at least" if name == "same_top" else "at most"
            )
            checks.append(Check(name, value, limit, direction))
    return checks


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
    """Sketches of the texts that it was calibrated on, where its manifest is not there yet."""
    adapter: Path | None = None
    """Applied to the model, not to the reference."""


class CheckFacts(TypedDict):
    """A check in JSON."""

    figure: str
    value: float
    limit: float
    direction: Literal["at most", "at least"]
    passed: bool
    sentence: str


class GateDocument(document.Head):
    """The document of `pedsup-bench gate`."""

    model: document.ModelFacts
    reference: str | None
    file_type: str
    passed: bool
    checks: list[CheckFacts]
    figures: dict[str, dict[str, object]]
    task: dict[str, object] | None
    n_ctx: int


def run_gate(plan: GatePlan) -> GateDocument:
    """Measure and compare. The document has 'passed', 'checks' and 'figures'.

    Raises:
        BadFileError: the thresholds are not valid, or limit none of the figures measured.
        PedsupError: the file or its reference cannot be judged at all.
    """
    from pedsup_bench.quality.divergence import TokenFigures
    from pedsup_bench.quality.measure import QualityPlan, measure
    from pedsup_bench.quality.summary import summarize
    from pedsup_bench.report import overlap
    from pedsup_bench.report.texts import default_texts

    name, limits = thresholds_for(plan.model, read_thresholds(plan.thresholds))
    _require_a_check(plan, name, limits)
    examples = read_dialogues(plan.examples) if plan.examples is not None else ()
    overlap.refuse(
        plan.calibrated_on or overlap.sketches_of(plan.model), _judged_on(plan, examples)
    )
    quality = QualityPlan(
        plan.model, plan.reference, default_texts(), n_ctx=plan.n_ctx, n_chunks=plan.n_chunks,
        n_threads=plan.n_threads, logits_folder=plan.logits_folder, adapter=plan.adapter,
    )  # fmt: skip
    tokens = measure(quality)
    per_text = {name: summarize(figures).to_json() for name, figures in tokens.items()}
    whole = summarize(TokenFigures.concatenate(list(tokens.values())))
    judged = {
        "kld_mean": whole.kld.mean,
        "kld_p99": whole.kld.p99,
        "same_top": whole.same_top,
        "ppl_ratio": whole.ppl_ratio,
    }
    if plan.questions is not None:
        assert plan.reference is not None
        judged["accuracy_drop"] = _accuracy_drop(plan, plan.questions, plan.reference)
    task = _task(plan, examples) if examples else None
    if task is not None:
        judged |= {"task_loss_rise": task["loss_rise"], "task_drop": task["drop"]}
    checks = check_figures(judged, limits)
    return {
        **document.head(SCHEMA),
        "model": document.describe_model(plan.model, plan.adapter),
        "reference": plan.reference.name if plan.reference else None,
        "file_type": name,
        "passed": bool(checks) and all(check.passed for check in checks),
        "checks": [check.to_json() for check in checks],
        "figures": {**per_text, "all": whole.to_json()},
        "n_ctx": plan.n_ctx,
        "task": task,
    }


def require_pass(result: GateDocument) -> None:
    """Raise `GateError` naming every breach of a gate document, or that it checked nothing."""
    if not result["checks"]:
        raise GateError(
            f"nothing was checked of {result['model']['file']}",
            wanted="at least one threshold",
            remedy="give a thresholds file with limits, or none for the shipped one",
        )
    broken = [check["sentence"] for check in result["checks"] if not check["passed"]]
    if broken:
        raise GateError(
            f"{result['model']['file']} does not reach {len(broken)} of "
            f"{len(result['checks'])} thresholds",
            where=broken,
            wanted=f"the thresholds for {result['file_type']}",
            remedy="export with a larger type or an importance matrix, or change the thresholds "
            "file if you decide that this is good enough",
        )


def _task(plan: GatePlan, examples: tuple[Dialogue, ...]) -> dict[str, Any]:
    from pedsup_bench.task.measure import measure
    from pedsup_bench.task.score import TaskPlan

    assert plan.examples is not None and plan.reference is not None
    asked = TaskPlan(
        examples,
        n_threads=plan.n_threads,
        allow_template=plan.allow_template,
        adapter=plan.adapter,
    )
    return measure(plan.model, plan.reference, plan.examples, asked)


def _judged_on(plan: GatePlan, examples: Sequence[Dialogue]) -> dict[str, str]:
    """Name -> words of what the file is judged on here."""
    from pedsup_bench.mcqa.questions import read_questions
    from pedsup_bench.report.texts import default_texts

    judged = {f"the text '{text.name}'": text.content for text in default_texts()}
    if plan.questions is not None:
        asked = read_questions(plan.questions).questions
        judged[plan.questions.name] = "\n".join(question.words for question in asked)
    if plan.examples is not None:
        judged[plan.examples.name] = "\n".join(example.words for example in examples)
    return judged


def _accuracy_drop(plan: GatePlan, questions: Path, reference: Path) -> float:
    from pedsup_bench.mcqa.questions import read_questions
    from pedsup_bench.mcqa.score import score_all

    asked = read_questions(questions).questions
    run: dict[str, Any] = {
        "n_ctx": 2048,
        "n_threads": plan.n_threads,
        "allow_template": plan.allow_template,
    }
    pair = [
        sum(s.right for s in score_all(path, asked, adapter=adapter, **run))
        for path, adapter in ((reference, None), (plan.model, plan.adapter))
    ]
    return (pair[0] - pair[1]) / len(asked)


def _require_a_check(plan: GatePlan, name: str, limits: Thresholds) -> None:
    """Refuse what would pass unchecked, before anything is measured."""
    limited = {f.name for f in fields(Thresholds) if getattr(limits, f.name) is not None}
    for given, names in ASKED_FOR.items():
        if getattr(plan, given) is None:
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


def _parse(data: bytes, source: Source) -> dict[str, Thresholds]:
    table, source = parse_toml(data, source)
    known = ["default", *FILE_TYPES.values()]
    for name in table:
        if name not in known:
            raise unknown(name, known, source)
    parsed = {name: record(Thresholds, limits, source, name) for name, limits in table.items()}
    if all(limits == Thresholds() for limits in parsed.values()):
        figures = ", ".join(f.name for f in fields(Thresholds))
        raise source.problem("the thresholds hold no limit", wanted=f"tables with {figures}")
    return parsed
