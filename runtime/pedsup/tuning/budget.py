"""How long measurements are, and how many decide a question. This module reads no clock."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Final

from pedsup.device.noise import MIN_SAMPLES
from pedsup.tuning.plan import MAX_PROMPT, Metric, Speed

PER_BUDGET: Final = 170.0
LONGEST_PART_S: Final = 1.0
"""A measurement takes about an 85th of the time, half of that for each of prompt and decode; and no
more than this: beyond it more rounds tell more than longer ones."""
PROBE_PROMPT: Final = 16
SHORTEST: Final = 4
LONGEST_DECODE: Final = 64
MOST_SURVIVORS: Final = 3
"""How many candidates survive a screening, by each measure."""
SLACK: Final = 1.15
"""Alternatives are often somewhat slower than what is usual."""
ADVISED: Final = 1.25
"""Time to advise over the time that the measurements alone would take."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of a measurement."""

    n_prompt: int
    n_decode: int
    n_long: int = MAX_PROMPT
    """Of the prompts by which batches are compared: a batch that holds all of it is as good as
    any larger one."""

    def seconds(self, metric: Metric, usual: Speed) -> float:
        """What one measurement takes at this speed."""
        if metric == "prompt":
            return self.n_long / usual.prompt + SHORTEST / usual.decode
        return self.n_prompt / usual.prompt + self.n_decode / usual.decode


def lengths_for(usual: Speed, seconds: float) -> Lengths:
    """The lengths for a device of this speed in this time."""
    part = min(LONGEST_PART_S, seconds / PER_BUDGET)
    return Lengths(
        n_prompt=min(MAX_PROMPT, max(PROBE_PROMPT, int(usual.prompt * part))),
        n_decode=min(LONGEST_DECODE, max(SHORTEST, int(usual.decode * part))),
    )


def decision_s(n_rows: int, measurement_s: float) -> float:
    """All rows once, and the rounds between the best of them that a choice needs."""
    survivors = min(n_rows, MOST_SURVIVORS + 1)
    return SLACK * (n_rows + MIN_SAMPLES * survivors) * measurement_s


def long_prompts(
    lengths: Lengths, usual: Speed, ubatches: tuple[int, ...], seconds: float
) -> Lengths:
    """The longest prompts by which these sizes of a step can be compared in the time.

    On a slow device shorter ones, which compare only the smaller sizes; at the least the smallest.
    """
    shortest = min(MAX_PROMPT, 2 * min(ubatches))
    for n_long in sorted({min(MAX_PROMPT, 2 * n) for n in ubatches}, reverse=True):
        tried = replace(lengths, n_long=n_long)
        n_rows = 1 + sum(n < n_long for n in ubatches)
        if decision_s(n_rows, tried.seconds("prompt", usual)) <= seconds:
            return tried
    return replace(lengths, n_long=shortest)


def advised_s(spent_s: float, missing_s: float) -> int:
    """The time to give, in whole minutes, so that what is missing can be decided too."""
    return 60 * ceil(ADVISED * (spent_s + missing_s) / 60)
