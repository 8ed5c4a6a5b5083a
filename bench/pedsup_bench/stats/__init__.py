"""The few statistics the figures need: robust summaries, intervals, paired tests."""

from pedsup_bench.stats.compare import Comparison, compare_samples
from pedsup_bench.stats.proportion import mcnemar_exact, wilson_interval
from pedsup_bench.stats.robust import Summary, mad, median, percentile, summarize

__all__ = [
    "Comparison",
    "Summary",
    "compare_samples",
    "mad",
    "mcnemar_exact",
    "median",
    "percentile",
    "summarize",
    "wilson_interval",
]
