"""Intervals and tests for counts of right answers."""

from __future__ import annotations

from math import exp, lgamma, log, sqrt
from typing import Final

Z95: Final = 1.959963984540054
"""Phi^-1(0.975)."""


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
    return min(1.0, 2.0 * sum(exp(_log_binomial(n, i) - n * log(2)) for i in range(k + 1)))


def _log_binomial(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
