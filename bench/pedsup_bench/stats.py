"""The few statistics the figures need: robust summaries, intervals, paired tests.

A benchmark on a shared machine has outliers: medians with spread, no means.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, comb, sqrt
from statistics import median, quantiles
from typing import Final, Literal

__all__ = ["Comparison", "compare_samples", "mcnemar_exact", "median", "spread", "wilson_interval"]

Z95: Final = 1.959963984540054
"""Phi^-1(0.975)."""
MAD_TO_SIGMA: Final = 1.4826
"""1 / Phi^-1(3/4): the MAD of a normal distribution times this is its standard deviation."""
Verdict = Literal["better", "worse", "same", "unclear", "too few samples"]
RESAMPLES: Final = 4000
SEED: Final = 20260101
MIN_SAMPLES: Final = 3
"""With fewer samples on a side the noise is unknown: no verdict."""
MAX_WANTED: Final = 1000
"""More samples than anybody takes: above it no number is given."""


def spread(values: Sequence[float]) -> float:
    """Median absolute deviation from the median, scaled to a standard deviation."""
    centre = median(values)
    return MAD_TO_SIGMA * median(abs(value - centre) for value in values)


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """Wilson's score interval for a proportion.

    Wilson, J. Am. Stat. Assoc. 22 (1927) 209: the p for which the observed share lies 1.96
    standard errors away. (0, 1) without observations.
    """
    if not 0 <= right <= n:
        raise ValueError(f"{right} right of {n}")
    if n == 0:
        return 0.0, 1.0
    share, z2 = right / n, Z95 * Z95
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # At the ends the formula gives exactly 0 and 1 but for rounding.
    low = 0.0 if right == 0 else max(0.0, centre - half)
    return low, 1.0 if right == n else min(1.0, centre + half)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact McNemar test: p-value of the two discordant counts.

    McNemar, Psychometrika 12 (1947) 153, with the binomial distribution instead of chi-square:
    under the null hypothesis each discordant pair falls on either side with probability 1/2.
    """
    n, k = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return 1.0
    ways: int = 2 * sum(comb(n, i) for i in range(k + 1))
    return min(1.0, ways / (1 << n))


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
    bounds = quantiles(ratios, n=40, method="inclusive")
    low, high = bounds[0], bounds[-1]
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
