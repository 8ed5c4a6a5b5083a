"""When to decode with fewer threads because the phone is getting hot: a pure function.

A phone that is too hot lowers its clocks far (12.4 to 3.8 tokens/s within 30 minutes was
reported). Decoding waits for memory more than for arithmetic, so fewer threads cost less speed
than the heat they save. Seen from here heat is a lasting loss of speed while the threads keep
their cores busy: what another app takes shows as cores that were not ours, what the storage takes
as threads that slept, and what a longer context takes is known from the model's shape. Where tokens
are guessed ahead (drafts) their speed swings with the share of right guesses, and `llama-server`
does not say how many it guessed in which pass: then only sensors that say hot count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Final, Literal

from pedsup.device.noise import MAD_TO_SIGMA

SLOW: Final = 1.25
"""Decoding is slow at this multiple of the best sustained stretch's seconds per token."""
SPREADS: Final = 3.0
"""If speed varies much between windows: slow at this many standard deviations more."""
RECENT: Final = 7
"""Windows whose median is the speed now, and evaluations in a row that must find it slow."""
SUSTAINED: Final = 16
"""Windows whose median can be the best sustained speed: the best of many short stretches would be
a lucky one."""
BUSY: Final = 0.85
"""Share of its cores' time that a thread pool gets when nothing else takes them."""
SUSTAIN_S: Final = 15.0
SUSTAIN_BLIND_S: Final = 60.0
"""How long slowness must last; longer where it is not known who had the cores."""
SETTLE_S: Final = 30.0
"""Seconds after a change in which nothing is judged: clocks and heat follow slowly."""
WORTH: Final = 0.7
"""Fewer threads must keep this share of the speed that they were taken for."""
KNOWN_GAIN: Final = 1.1
"""With a known speed of fewer threads they are taken when that is so much faster."""
PATIENCE_S: Final = 240.0
MAX_PATIENCE_S: Final = 1920.0
"""Before more threads are tried again; doubled with each trial that fails."""
REST_S: Final = 120.0
"""A pause in which a phone cools: threads come back at once."""

Kind = Literal["lower", "restore", "report"]
Reason = Literal["heat", "cooled", "rested", "not worth it", "slower than fewer threads"]


@dataclass(frozen=True)
class Limits:
    """What the governor is allowed to do."""

    most: int
    """Threads of the launch plan; never more."""
    least: int = 1
    adjustable: bool = True
    """False for `llama-server`, whose threads are fixed at its start: then only reports come."""
    guessing: bool = False
    """Tokens are guessed ahead: then only hot sensors are evidence of heat."""
    depth_share: float = 0.0
    """Seconds that each token of context adds to a decode step, over those of an empty context."""


@dataclass(frozen=True)
class Sample:
    """A short stretch of decoding, some seconds long."""

    at_s: float
    """Monotonic clock at its end."""
    token_s: float
    depth: int
    """Tokens in the context."""
    span_s: float = 0.0
    """How long it took."""
    busy: float | None = None
    """CPU time of the engine over the wall time of its threads; None where it cannot be read."""
    hot: bool | None = None
    """Whether the sensors call the device hot; None if unknown or in between."""


@dataclass(frozen=True)
class Action:
    """A change of threads (for 'report': the change that would be made), and why."""

    kind: Kind
    threads: int
    reason: Reason
    at_s: float
    best_tps: float
    """Tokens per second of the best sustained stretch, at this depth."""
    now_tps: float


@dataclass(frozen=True)
class State:
    """What the governor remembers. `State(n)` is a start with n threads."""

    threads: int
    best: Mapping[int, float] = field(default_factory=dict)
    """By threads: seconds per token of the best sustained stretch, as with an empty context."""
    recent: tuple[Sample, ...] = ()
    """The last `SUSTAINED` windows."""
    slow_since: float | None = None
    slow_count: int = 0
    changed_at: float | None = None
    before: float | None = None
    """Corrected seconds per token when threads were last lowered; None after they came back."""
    patience_s: float = PATIENCE_S
    hold_until: float = 0.0
    """No lowering on suspicion before this time: the last one was not worth it."""
    crowded: bool = False
    """Decoding is slow now because something else has the cores."""
    reported: bool = False
    last_at: float | None = None


def observe(state: State, sample: Sample, limits: Limits) -> tuple[State, Action | None]:
    """The state after one more sample, and what to do."""
    if state.last_at is not None and sample.at_s - sample.span_s - state.last_at > REST_S:
        state = replace(state, recent=(), slow_since=None, slow_count=0, reported=False)
        if state.threads < limits.most:
            state = replace(state, last_at=sample.at_s)
            # The sample belongs to the old number of threads.
            return _change(state, sample, limits.most, "rested", limits)
    recent = (*state.recent, sample)[-SUSTAINED:]
    state = replace(state, recent=recent, last_at=sample.at_s, crowded=False)
    if len(recent) < RECENT:
        return state, None
    state = _note_best(state, limits)
    settled = state.changed_at is None or sample.at_s - state.changed_at >= SETTLE_S
    best = state.best.get(state.threads)
    if not settled or best is None:
        return state, None
    now = _speed(recent[-RECENT:], limits)
    if state.before is not None and now * WORTH > state.before and limits.adjustable:
        held = replace(state, hold_until=sample.at_s + state.patience_s)
        return _change(_less_patient(held), sample, _more(state, limits), "not worth it", limits)
    fewer = state.best.get(_fewer(state, limits))
    if fewer is not None and state.threads > limits.least and now > KNOWN_GAIN * fewer:
        return _suspect(state, sample, limits, "slower than fewer threads")
    if now > max(SLOW, 1 + SPREADS * _spread(recent)) * best:
        return _suspect(state, sample, limits, "heat")
    state = replace(state, slow_since=None, slow_count=0, reported=False)
    return _maybe_restore(state, sample, limits)


def _suspect(
    state: State, sample: Sample, limits: Limits, reason: Reason
) -> tuple[State, Action | None]:
    """Decoding is slow: act if that lasts and if heat is the cause."""
    recent = state.recent[-RECENT:]
    busy = [s.busy for s in recent if s.busy is not None]
    if (busy and median(busy) < BUSY) or sample.hot is False:
        # Another app has the cores, or storage is waited for, or the sensors say cool.
        return replace(state, slow_since=None, slow_count=0, crowded=True), None
    if reason == "heat" and sample.at_s < state.hold_until:
        return state, None
    if limits.guessing and not sample.hot:
        return state, None
    since = sample.at_s if state.slow_since is None else state.slow_since
    state = replace(state, slow_since=since, slow_count=state.slow_count + 1)
    wanted = SUSTAIN_S if busy or sample.hot else SUSTAIN_BLIND_S
    if sample.at_s - since < wanted or state.slow_count < RECENT:
        return state, None
    if state.threads <= limits.least:
        return state, None
    if not limits.adjustable:
        if state.reported:
            return state, None
        told = replace(state, reported=True)
        return told, _action("report", told, sample, _fewer(state, limits), reason, limits)
    if state.changed_at is not None and sample.at_s - state.changed_at < 2 * state.patience_s:
        state = _less_patient(state)
    lowered = replace(state, before=_speed(recent, limits))
    return _change(lowered, sample, _fewer(state, limits), reason, limits)


def _maybe_restore(state: State, sample: Sample, limits: Limits) -> tuple[State, Action | None]:
    """More threads again, after patience and not while the sensors say hot."""
    since = state.changed_at
    if state.threads >= limits.most or since is None or sample.hot:
        return state, None
    if sample.at_s - since < state.patience_s:
        return state, None
    return _change(state, sample, _more(state, limits), "cooled", limits)


def _change(
    state: State, sample: Sample, threads: int, reason: Reason, limits: Limits
) -> tuple[State, Action]:
    kind: Kind = "lower" if threads < state.threads else "restore"
    action = _action(kind, state, sample, threads, reason, limits)
    changed = replace(
        state,
        threads=threads,
        recent=(),
        slow_since=None,
        slow_count=0,
        changed_at=sample.at_s,
        before=state.before if kind == "lower" else None,
        patience_s=PATIENCE_S if reason == "rested" else state.patience_s,
    )
    return changed, action


def _action(
    kind: Kind, state: State, sample: Sample, threads: int, reason: Reason, limits: Limits
) -> Action:
    deeper = 1 + limits.depth_share * sample.depth
    recent = state.recent[-RECENT:]
    now = _speed(recent, limits) if recent else sample.token_s / deeper
    best = state.best.get(state.threads, now)
    return Action(kind, threads, reason, sample.at_s, 1 / (best * deeper), 1 / (now * deeper))


def _note_best(state: State, limits: Limits) -> State:
    if len(state.recent) < SUSTAINED:
        return state
    sustained = _speed(state.recent, limits)
    best = min(sustained, state.best.get(state.threads, sustained))
    return replace(state, best={**state.best, state.threads: best})


def _speed(samples: tuple[Sample, ...], limits: Limits) -> float:
    """Seconds per token as they would be with an empty context."""
    return median(s.token_s / (1 + limits.depth_share * s.depth) for s in samples)


def _spread(samples: tuple[Sample, ...]) -> float:
    """Relative standard deviation of the windows, from the median absolute deviation."""
    centre = median(s.token_s for s in samples)
    return MAD_TO_SIGMA * median(abs(s.token_s - centre) for s in samples) / centre


def _less_patient(state: State) -> State:
    return replace(state, patience_s=min(2 * state.patience_s, MAX_PATIENCE_S))


def _fewer(state: State, limits: Limits) -> int:
    return max(limits.least, state.threads - max(1, state.threads // 4))


def _more(state: State, limits: Limits) -> int:
    """One step back up; from any number a step down leads to one that is lower again."""
    return min(limits.most, state.threads + max(1, state.threads // 4))
