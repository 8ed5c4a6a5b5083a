"""The search: screen coarsely, drop what is clearly slower, compare the rest round by round."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from pedsup.device.noise import MIN_SAMPLES, beats
from pedsup.tuning.budget import MOST_SURVIVORS, Lengths, decision_s, lengths_for, long_prompts
from pedsup.tuning.plan import (
    SHARES,
    Candidate,
    Failure,
    Metric,
    Speed,
    Stage,
    TunePlan,
)
from pedsup.tuning.results import Outcome, Row, StageResult

MOST_ROUNDS: Final = 7
"""With the screening."""
KEEP: Final = 0.85
"""Share of the best speed of the screening below which a candidate is dropped."""
GIVE_UP: Final = 0.8
"""Past the big cores, larger numbers of threads are not tried after one that is so much slower."""


class Bench(Protocol):
    """What measures; the real one runs children, tests simulate a device."""

    def measure(self, candidate: Candidate, metric: Metric) -> Speed | Failure:
        """One measurement, some seconds long; of 'prompt' with a long prompt."""

    def start_stage(self, lengths: Lengths, usual: Speed) -> None:
        """Measure so from now on; the champion has the speed `usual`."""

    def load_s(self, candidates: Sequence[Candidate]) -> float:
        """About the seconds to load what these need and is not loaded."""


@dataclass(frozen=True)
class _Prepared:
    """A stage before anything of it is measured."""

    stage: Stage
    candidates: tuple[Candidate, ...]
    """The champion first."""
    lengths: Lengths
    need_s: float
    """About the seconds in which it can be decided."""


class NothingMeasuredError(Exception):
    """Not even the start could be measured; the argument is why."""


@dataclass
class Search:
    """Runs a plan on a bench."""

    plan: TunePlan
    bench: Bench
    on_stage: Callable[[Stage], None] = lambda stage: None
    clock: Callable[[], float] = time.monotonic

    def run(self) -> Outcome:
        """All stages that fit into the time. Raises `NothingMeasuredError` if the start fails."""
        best: Candidate = self.plan.base
        results: list[StageResult] = []
        first = self.bench.measure(best, "turn")
        if isinstance(first, Failure):
            raise NothingMeasuredError(first.reason)
        usual = first
        # The first load reads the file: as long as that takes, and no part of the measuring.
        started = self.clock()
        end = started + self.plan.seconds
        stages = self.plan.stages
        for number, stage in enumerate(stages):
            left = end - self.clock()
            needs = [self._prepare(later, best, usual, 0.0).need_s for later in stages[number:]]
            share = SHARES[stage.name] / sum(SHARES[later.name] for later in stages[number:])
            # What all the others need is left for them; the rest is shared.
            seconds = needs[0] + max(0.0, left - sum(needs)) * share
            result = self._run(self._prepare(stage, best, usual, seconds), usual, seconds, left)
            results.append(result)
            best = result.chosen
            chosen = [r.speeds for r in result.rows if r.candidate == best and r.speeds]
            usual = chosen[0][0] if chosen and stage.metric != "prompt" else usual
        speeds = next(
            (tuple(row.speeds) for result in reversed(results) for row in result.rows
             if row.candidate == best and row.speeds),
            (first,),
        )  # fmt: skip
        return Outcome(best, tuple(results), self.clock() - started, speeds)

    def _prepare(
        self, stage: Stage, champion: Candidate, usual: Speed, seconds: float
    ) -> _Prepared:
        """Who is compared, by measurements of which length, and what that needs."""
        others = [replace(champion, **change) for change in stage.changes]
        others = [c for c in others if c != champion]
        lengths = lengths_for(usual, self.plan.seconds)
        if stage.metric == "prompt" and others:
            sizes = tuple(c.ubatch for c in others)
            lengths = long_prompts(lengths, usual, sizes, seconds)
            others = [c for c in others if c.ubatch < lengths.n_long]
        candidates = (champion, *others)
        need = decision_s(len(candidates), lengths.seconds(stage.metric, usual))
        return _Prepared(stage, candidates, lengths, need + self.bench.load_s(candidates))

    def _run(self, prepared: _Prepared, usual: Speed, seconds: float, left: float) -> StageResult:
        """A stage. One that cannot be decided in all that is left is not begun: the later ones may
        need less. Numbers of threads are always tried, because a collapse is seen at once."""
        stage, need = prepared.stage, prepared.need_s
        self.bench.start_stage(prepared.lengths, usual)
        rows = [Row(candidate) for candidate in prepared.candidates]
        if need > left and stage.name != "threads":
            for row in rows:
                row.untried = True
            return StageResult(stage, tuple(rows), rows[0].candidate, "no time", need)
        self.on_stage(stage)
        begun = self.clock()
        result = self._stage(stage, rows, begun + min(seconds, left))
        if result.reason == "no time":
            spent = self.clock() - begun
            return replace(result, missing_s=max(need - spent, need / 2))
        return result

    def _stage(self, stage: Stage, rows: list[Row], deadline: float) -> StageResult:
        self._screen(stage, rows, deadline)
        finalists = self._finalists(stage, rows)
        for number in range(1, MOST_ROUNDS):
            round_s = sum(row.seconds for row in finalists)
            if len(finalists) < 2 or self.clock() + round_s > deadline:
                break
            # Forth and back, so that a drift of the device's speed favours none.
            for row in finalists if number % 2 else reversed(finalists):
                self._measure(stage, row)
            finalists = [row for row in finalists if row.failure is None]
        if stage.name == "threads":
            chosen, reason = self._choose_threads(stage, rows)
        else:
            winner = _best(stage.metric, rows, self.plan.n_big)
            chosen, reason = winner.candidate, _reason(winner, rows)
        return StageResult(stage, tuple(rows), chosen, reason)

    def _screen(self, stage: Stage, rows: list[Row], deadline: float) -> None:
        """One measurement each; from few threads up, and not on after a collapse."""
        gave_up = False
        for row in sorted(rows, key=lambda row: row.candidate.threads):
            past = row.candidate.threads > self.plan.n_big
            row.dropped = gave_up and past
            row.untried = not row.dropped and self.clock() >= deadline
            if row.dropped or row.untried:
                continue
            self._measure(stage, row)
            champion = rows[0].speeds
            if past and champion and (row.failure or self._collapsed(row, champion[0])):
                gave_up = True

    def _collapsed(self, row: Row, champion: Speed) -> bool:
        speed = row.speeds[0]
        return speed.decode < GIVE_UP * champion.decode and speed.prompt < GIVE_UP * champion.prompt

    def _finalists(self, stage: Stage, rows: list[Row]) -> list[Row]:
        alive = [row for row in rows if row.speeds]
        # Decoding and prompts may each have another best number of threads.
        metrics: list[Metric] = ["decode", "prompt"] if stage.name == "threads" else [stage.metric]
        n_big = self.plan.n_big
        lost = any(_wins(row, rows[0], metric, n_big) for row in alive for metric in metrics)
        kept = [rows[0]] if rows[0].speeds and not lost else []
        for metric in metrics:
            ranked = sorted(alive, key=lambda row: -row.speeds[0].by(metric))
            top = ranked[0].speeds[0].by(metric) if ranked else 0.0
            kept += [r for r in ranked[:MOST_SURVIVORS] if r.speeds[0].by(metric) >= KEEP * top]
        finalists = [row for row in rows if any(row is k for k in kept)]
        for row in rows:
            row.dropped = row.dropped or (bool(row.speeds) and all(row is not f for f in finalists))
        return finalists

    def _measure(self, stage: Stage, row: Row) -> None:
        if row.failure is not None:
            return
        started = self.clock()
        result = self.bench.measure(row.candidate, stage.metric)
        row.seconds = self.clock() - started
        if isinstance(result, Failure):
            row.failure = result.reason
        else:
            row.speeds.append(result)

    def _choose_threads(self, stage: Stage, rows: list[Row]) -> tuple[Candidate, str]:
        """The best number for decoding; another one for prompts if the pair of them is better."""
        n_big = self.plan.n_big
        decode, prompt = _best("decode", rows, n_big), _best("prompt", rows, n_big)
        if prompt is rows[0] or not _wins(prompt, decode, "prompt", n_big):
            prompt = decode if decode is not rows[0] else prompt
        reason = _reason(decode if decode is not rows[0] else prompt, rows)
        if prompt is decode:
            return decode.candidate, reason
        # More threads for prompts need all cores, and then decoding has the choice of them too.
        pair = replace(
            decode.candidate,
            threads_batch=prompt.candidate.threads,
            pin=decode.candidate.pin and prompt.candidate.pin,
        )
        duel = [Row(decode.candidate), Row(pair)]
        for _ in range(MIN_SAMPLES):
            for row in duel:
                self._measure(stage, row)
        rows.append(duel[1])
        turns = [row.series("turn").values for row in duel]
        if duel[1].failure is None and beats(turns[1], turns[0]):
            return pair, "better"
        return decode.candidate, _reason(decode, rows)


def _wins(challenger: Row, champion: Row, metric: Metric, n_big: int) -> bool:
    """Whether it is better beyond the noise; threads past the big cores need all rounds for it."""
    speeds = _compared(challenger, metric)
    if challenger is champion or challenger.failure is not None:
        return False
    if challenger.candidate.threads > n_big and len(speeds) < MIN_SAMPLES:
        return False
    return beats(speeds, _compared(champion, metric))


def _compared(row: Row, metric: Metric) -> tuple[float, ...]:
    """The speeds that decide: not the screening's, which chose who is compared (a lucky one would
    count twice). Without three rounds after it only what is decisive counts."""
    speeds = row.series(metric).values
    return speeds[1:] if len(speeds) > MIN_SAMPLES else speeds[: MIN_SAMPLES - 1]


def _best(metric: Metric, rows: list[Row], n_big: int) -> Row:
    """Of those that beat the champion, which is the first, the fastest; else the champion.

    Of equally fast ones that with the fewest threads: it takes less power.
    """
    winners = [row for row in rows[1:] if _wins(row, rows[0], metric, n_big)]
    if not winners:
        return rows[0]
    top = max(winners, key=lambda row: row.series(metric).median)
    level = [row for row in winners if row is top or not _wins(top, row, metric, n_big)]
    return min(level, key=lambda row: (row.candidate.threads, -row.series(metric).median))


def _reason(winner: Row, rows: list[Row]) -> str:
    if winner is not rows[0]:
        return "better"
    if rows[0].failure is not None:  # it ran before
        return "disturbed"
    others = rows[1:]
    if others and all(row.failure for row in others):
        return "failed"
    undecided = [
        row
        for row in others
        if row.untried or not (row.dropped or row.failure or len(row.speeds) > MIN_SAMPLES)
    ]
    return "no time" if undecided else "kept"
