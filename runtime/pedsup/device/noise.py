"""Medians with their noise, and whether a difference exceeds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import median, stdev
from typing import Final

MAD_TO_SIGMA: Final = 1.4826
"""1 / Phi^-1(3/4): the MAD of a normal distribution times this is its standard deviation."""
MEDIAN_ERROR: Final = 1.2533
"""sqrt(pi / 2): the standard error of a median over that of a mean."""
LEAST_GAIN: Final = 0.03
"""A smaller gain is not worth another setting."""
Z: Final = 3.0
DECISIVE: Final = 2.0
"""Threads that wait for each other on taken cores are slower by more than this: no need to
suffer through three rounds of that."""
MIN_SAMPLES: Final = 3


@dataclass(frozen=True)
class Series:
    """Repeated measurements of one speed."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Zero if nothing was measured."""
        return float(median(self.values)) if self.values else 0.0

    @property
    def noise(self) -> float:
        """Standard deviation over the median, from the median absolute deviation."""
        centre = self.median
        if centre <= 0:
            return 0.0
        return MAD_TO_SIGMA * float(median(abs(v - centre) for v in self.values)) / centre

    @property
    def error(self) -> float:
        """Relative standard error of the median.

        From the plain standard deviation: of three to five values the median absolute deviation is
        often near zero by luck, and an outlier here rightly means that nothing can be said.
        """
        if len(self.values) < 2 or self.median <= 0:
            return 0.0
        return MEDIAN_ERROR * stdev(self.values) / self.median / sqrt(len(self.values))


def beats(challenger: Sequence[float], champion: Sequence[float]) -> bool:
    """Whether the challenger's speed is higher beyond the noise of both.

    Both series have one value per round, measured beside each other: what slowed a whole round
    down is in both. The median of the rounds' ratios must exceed 1 by `LEAST_GAIN` and by `Z`
    standard errors of it, and at most one round in five may speak against it. Fewer than three
    rounds tell only what is twice as fast in each.
    """
    if not challenger or not champion or min(*challenger, *champion) <= 0:
        return False
    ratios = Series(tuple(a / b for a, b in zip(challenger, champion, strict=False)))
    if len(ratios.values) < MIN_SAMPLES:
        return min(ratios.values) >= DECISIVE
    against = sum(ratio <= 1 for ratio in ratios.values)
    if against > len(ratios.values) // 5:
        return False
    return ratios.median - 1 > max(LEAST_GAIN, Z * ratios.error * ratios.median)
