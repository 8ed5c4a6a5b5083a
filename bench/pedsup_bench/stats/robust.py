"""Medians with spread. A benchmark on a shared machine has outliers, so no means here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median as _median
from typing import Final

MAD_TO_SIGMA: Final = 1.4826
"""1 / Phi^-1(3/4): the MAD of a normal distribution times this is its standard deviation."""


def median(values: Sequence[float]) -> float:
    """The median; the mean of the middle two for an even count."""
    return float(_median(values))


def mad(values: Sequence[float]) -> float:
    """Median absolute deviation from the median, unscaled."""
    centre = median(values)
    return median([abs(value - centre) for value in values])


def percentile(values: Sequence[float], fraction: float) -> float:
    """Linear interpolation between order statistics (numpy's default, Hyndman and Fan type 7)."""
    ordered = sorted(values)
    at = fraction * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


@dataclass(frozen=True)
class Summary:
    """Samples in short; `spread` is the MAD scaled to a standard deviation."""

    n: int
    median: float
    spread: float
    low: float
    high: float


def summarize(values: Sequence[float]) -> Summary:
    """Median, spread and range of at least one sample."""
    return Summary(
        len(values), median(values), MAD_TO_SIGMA * mad(values), min(values), max(values)
    )
