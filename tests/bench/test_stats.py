"""Interval and test formulas against published values and hand calculation."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedsup_bench.stats import (
    compare_samples,
    mcnemar_exact,
    spread,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998) 857, table I, method 3 (score).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0000),
    ],
)
def test_wilson_interval_equals_newcombe_s_table(right, n, low, high) -> None:
    assert wilson_interval(right, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500), st.data())
def test_wilson_interval_holds_the_share_and_mirrors(n, data) -> None:
    right = data.draw(st.integers(0, n))
    low, high = wilson_interval(right, n)
    assert 0 <= low <= right / n <= high <= 1
    assert wilson_interval(n - right, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_mcnemar_is_the_binomial_by_hand() -> None:
    # 1 + 9 discordant: 2 * (C(10,0) + C(10,1)) / 2^10
    assert mcnemar_exact(1, 9) == pytest.approx(2 * 11 / 1024)
    assert mcnemar_exact(9, 1) == pytest.approx(2 * 11 / 1024)
    assert mcnemar_exact(0, 6) == pytest.approx(2 / 64)
    assert mcnemar_exact(5, 5) == 1.0
    assert mcnemar_exact(0, 0) == 1.0


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_equals_exact_integer_arithmetic(a, b) -> None:
    n = a + b
    exact = min(1.0, 2 * sum(math.comb(n, i) for i in range(min(a, b) + 1)) / 2**n) if n else 1.0
    assert mcnemar_exact(a, b) == pytest.approx(exact, rel=1e-9)


def test_mcnemar_of_large_counts_does_not_overflow() -> None:
    assert 0 <= mcnemar_exact(2000, 2500) < 1e-12


def test_spread_ignores_one_outlier() -> None:
    assert spread([10.0, 10.2, 9.8, 10.1, 500.0]) == pytest.approx(0.14826)


def test_compare_says_worse_better_same_and_unclear() -> None:
    base = [10.0, 10.1, 9.9, 10.05, 9.95]
    slow, near = [x * 0.8 for x in base], [x * 1.01 for x in base]

    def verdict(after, **options):
        return compare_samples(base, after, higher_is_better=True, **options).verdict

    assert verdict(slow) == "worse"
    assert verdict([x * 1.3 for x in base]) == "better"
    assert verdict(near, tolerance=0.1) == "same"
    assert verdict([5.0, 20.0, 9.0, 12.0, 7.0]) == "unclear"
    assert verdict([1.0, 1.0]) == "too few samples"
    assert compare_samples(base, slow, higher_is_better=False).verdict == "better"


def test_compare_is_repeatable_and_its_interval_holds_the_ratio() -> None:
    base, after = [1.0, 1.2, 0.9, 1.1, 1.05], [1.3, 1.2, 1.5, 1.25, 1.4]
    first = compare_samples(base, after, higher_is_better=False)
    assert first == compare_samples(base, after, higher_is_better=False)
    assert first.ratio == pytest.approx(1.3 / 1.05)
    assert first.low <= first.ratio <= first.high


def test_clean_noise_is_rarely_called_worse() -> None:
    """Two sets of the same distribution, many times: few false alarms."""
    import random

    draw = random.Random(7)
    alarms = 0
    for _ in range(60):
        sets = [[draw.lognormvariate(0, 0.03) for _ in range(7)] for _ in range(2)]
        alarms += compare_samples(*sets, higher_is_better=True, tolerance=0.05).verdict == "worse"
    assert alarms <= 1


def test_as_many_samples_as_it_asks_for_give_a_verdict() -> None:
    """The same spread, in so many samples and twice that: no longer unclear."""

    def spread(n: int, centre: float) -> list[float]:
        return [centre * (0.9 + 0.2 * i / (n - 1)) for i in range(n)]

    options = {"higher_is_better": False, "tolerance": 0.05}
    found = compare_samples(spread(9, 1.0), spread(9, 1.01), **options)
    assert found.verdict == "unclear"
    assert found.wanted is not None
    assert found.wanted > 9
    n = 2 * found.wanted
    more = compare_samples(spread(n, 1.0), spread(n, 1.01), **options)
    assert (more.verdict, more.wanted) == ("same", None)
    edge = compare_samples(spread(9, 1.0), spread(9, 1.05), **options)
    assert (edge.verdict, edge.wanted) == ("unclear", None), "no number settles the very border"
    few = compare_samples([1.0], [2.0, 2.0, 2.0], higher_is_better=True)
    assert (few.verdict, few.wanted) == ("too few samples", 3)
