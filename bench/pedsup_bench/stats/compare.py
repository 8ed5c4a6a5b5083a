"""Is one set of timings worse than another, given the noise of both?"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Final, Literal

from pedsup_bench.stats.robust import median, percentile

Verdict = Literal["better", "worse", "same", "unclear", "too few samples"]
RESAMPLES: Final = 4000
SEED: Final = 20260101
MIN_SAMPLES: Final = 3
"""With fewer samples on a side the noise is unknown: no verdict."""
MAX_WANTED: Final = 1000
"""More samples than anybody takes: above it no number is given."""


@dataclass(frozen=True)
class Comparison:
    """The second set against the first: `ratio` of medians with its 95 % interval."""

    ratio: float
    low: float
    high: float
    verdict: Verdict
    wanted: int | None = None
    """Samples that each side needs for a verdict, where there is none; None: more than anybody
    takes."""


def compare_samples(
    before: Sequence[float],
    after: Sequence[float],
    *,
    higher_is_better: bool,
    tolerance: float = 0.03,
) -> Comparison:
    """Compare two sets of positive samples.

    The interval of the ratio of medians is the percentile bootstrap (Efron 1979), resampling
    both sides. 'worse' and 'better' need the whole interval beyond `tolerance`, 'same' needs
    it inside; what straddles the border is 'unclear'. The generator is seeded, so the
    same input gives the same verdict.

    For an unclear one, `wanted` supposes that the ratio stays and that the interval narrows with
    the square root of the number of samples.
    """
    if min(*before, *after) <= 0:
        raise ValueError("samples must be positive")
    ratio = median(after) / median(before)
    if len(before) < MIN_SAMPLES or len(after) < MIN_SAMPLES:
        return Comparison(ratio, 0.0, float("inf"), "too few samples", MIN_SAMPLES)
    draw = random.Random(SEED)
    ratios = [
        median(draw.choices(after, k=len(after))) / median(draw.choices(before, k=len(before)))
        for _ in range(RESAMPLES)
    ]
    low, high = percentile(ratios, 0.025), percentile(ratios, 0.975)
    found = Comparison(ratio, low, high, _verdict(low, high, higher_is_better, tolerance))
    if found.verdict != "unclear":
        return found
    return replace(found, wanted=_wanted(found, min(len(before), len(after)), tolerance))


def _verdict(low: float, high: float, higher_is_better: bool, tolerance: float) -> Verdict:
    if low > 1 + tolerance:
        return "better" if higher_is_better else "worse"
    if high < 1 / (1 + tolerance):
        return "worse" if higher_is_better else "better"
    if low >= 1 / (1 + tolerance) and high <= 1 + tolerance:
        return "same"
    return "unclear"


def _wanted(found: Comparison, n: int, tolerance: float) -> int | None:
    """So many that the interval, as wide on its wider side, ends before the nearer border."""
    borders = (1 / (1 + tolerance), 1 + tolerance)
    away = min(abs(found.ratio - border) for border in borders)
    wide = max(found.high - found.ratio, found.ratio - found.low)
    if away * MAX_WANTED**0.5 <= wide * n**0.5:
        return None
    return max(n + 1, ceil(n * (wide / away) ** 2))
