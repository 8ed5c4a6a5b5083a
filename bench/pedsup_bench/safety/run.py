"""Puts the cases to a file as `pedsup-run` would, and counts the rules that it kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Final

from pedsup.chat.turn import Turn
from pedsup.files.records import record
from pedsup.files.source import Source
from pedsup.guards import check_answer, check_question
from pedsup.memory import available_memory
from pedsup.run.load import LoadedModel, load, turn_settings
from pedsup.run.plan import plan_launch
from pedsup.settings.schema import Settings
from pedsup_bench.report.bars import item_bar
from pedsup_bench.report.forecast import announce
from pedsup_bench.report.journal import open_journal, pair_identity
from pedsup_bench.safety.result import Figure, GuardFigure
from pedsup_bench.safety.rules import RULES
from pedsup_bench.safety.suite import Case, Suite
from pedsup_bench.stats import wilson_interval

ALGORITHM: Final = 1
"""To be raised when the figures of the same answers change."""


@dataclass(frozen=True)
class SafetyPlan:
    """Which file, which cases, how they are asked."""

    model: Path
    suite: Suite
    cases: tuple[Case, ...]
    settings: Settings


@dataclass(frozen=True)
class Judged:
    """One case, its answer, and how it was judged."""

    id: str
    category: str
    language: str
    answer: str
    stop_reason: str
    broken: tuple[str, ...]
    """Rules that the answer breaks; none: it passed."""
    guards: tuple[str, ...]
    """Guards that the question and the answer raised."""
    guards_wanted: tuple[str, ...]
    """Guards that the question should raise."""

    @property
    def passed(self) -> bool:
        """Whether all rules are kept."""
        return not self.broken


def settings_for(
    *, think: bool, max_tokens: int, ctx: int, threads: int, allow_template: bool
) -> Settings:
    """Greedy, without history or cache: the same file gives the same answers."""
    return Settings(
        temp=0.0, seed=0, think="shown" if think else "off", max_tokens=max_tokens, ctx=ctx,
        threads=threads, allow_template=allow_template, history=False, cache=False,
    )  # fmt: skip


def run(plan: SafetyPlan) -> list[Judged]:
    """Ask every case; continues an interrupted run.

    Raises:
        PedsupError: as `pedsup-run` with this model.
    """
    source = Source("the journal", "the cache")
    adapter = Path(plan.settings.adapter) if plan.settings.adapter else None
    asked = [case.id + case.language for case in plan.cases]
    settings = asdict(replace(plan.settings, adapter=None))
    key = [ALGORITHM, pair_identity(plan.model, adapter), plan.suite.sha256, asked, settings]
    journal = open_journal("safety", key, lambda row: record(Judged, row, source))
    judged = journal.read()
    launch = plan_launch(plan.model, plan.settings, available=available_memory())
    loaded = load(launch, plan.settings)
    try:
        with item_bar(len(plan.cases), plan.model.name, "case", initial=len(judged)) as bar:
            for number, case in enumerate(plan.cases[len(judged) :]):
                started = monotonic()
                judged.append(judge(case, *ask(loaded, plan.settings, case)))
                journal.append(asdict(judged[-1]))
                bar.update()
                if number == 0:
                    _announce(plan, monotonic() - started, len(plan.cases) - len(judged))
    finally:
        loaded.engine.close()
    journal.discard()
    return judged


def _announce(plan: SafetyPlan, seconds: float, n_left: int) -> None:
    """How long the other cases take if they take as long as the first."""
    most = plan.settings.max_tokens or 0
    announce(f"{n_left} more cases, answers of up to {most} tokens", n_left * seconds)


def ask(loaded: LoadedModel, settings: Settings, case: Case) -> tuple[str, str]:
    """The answer to one case, in a conversation of its own, and why it ended."""
    turn = Turn(
        loaded.engine,
        loaded.template,
        [{"role": "user", "content": case.prompt}],
        turn_settings(loaded, settings),
    )
    for _event in turn.stream():
        pass
    return turn.result.answer, turn.result.stop_reason


def judge(case: Case, answer: str, stop_reason: str) -> Judged:
    """Apply the rules of the case and the guards of the runtime."""
    raised = {finding.code for finding in check_question(case.prompt)}
    raised |= {finding.code for finding in check_answer(answer, case.prompt)}
    return Judged(
        id=case.id,
        category=case.category,
        language=case.language,
        answer=answer,
        stop_reason=stop_reason,
        broken=tuple(rule for rule in case.rules if not RULES[rule](answer)),
        guards=tuple(sorted(raised)),
        guards_wanted=tuple(sorted(case.guards)),
    )


def figures(judged: Sequence[Judged]) -> dict[str, dict[str, Figure]]:
    """Category -> language -> counts, share passed and its Wilson interval; guards beside it."""
    groups: dict[tuple[str, str], list[Judged]] = defaultdict(list)
    for one in judged:
        for name in (one.category, "all"):
            for language in (one.language, "all"):
                groups[name, language].append(one)
    result: dict[str, dict[str, Figure]] = {}
    for (name, language), members in sorted(groups.items()):
        result.setdefault(name, {})[language] = _figure(members)
    return result


def guard_figures(judged: Sequence[Judged]) -> dict[str, GuardFigure]:
    """For each guard of a question: how often it spoke where it should, and where it should not."""
    result: dict[str, GuardFigure] = {}
    for code in ("guard_emergency", "guard_dose_no_weight"):
        wanted = [code in one.guards for one in judged if code in one.guards_wanted]
        others = [code in one.guards for one in judged if code not in one.guards_wanted]
        result[code] = {
            "caught": sum(wanted), "of": len(wanted),
            "caught_interval": wilson_interval(sum(wanted), len(wanted)),
            "false_alarms": sum(others), "others": len(others),
            "false_alarm_interval": wilson_interval(sum(others), len(others)),
        }  # fmt: skip
    return result


def _figure(members: Sequence[Judged]) -> Figure:
    passed = sum(one.passed for one in members)
    return {
        "n": len(members),
        "passed": passed,
        "share": passed / len(members),
        "interval": wilson_interval(passed, len(members)),
        "dose_in_answer": sum("guard_dose_in_answer" in one.guards for one in members),
    }
