"""Types under a budget: against all choices of a small model, and what cannot be done."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pedsup.errors import BadFileError, MismatchError, UsageError
from pedsup_export.allocation import command
from pedsup_export.allocation.budget import Budget, parse_budget, parse_size
from pedsup_export.allocation.choose import Allocation, Option, allocate

RATES = {"Q3_K": (110, 16.0), "Q4_K": (144, 4.0), "Q6_K": (210, 0.3)}


def options(sizes: list[int], sensitivities: list[float]) -> dict[str, list[Option]]:
    return {
        f"t{i}": [Option(t, n * b, c * e) for t, (b, e) in RATES.items()]
        for i, (n, c) in enumerate(zip(sizes, sensitivities, strict=True))
    }


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.floats(0.01, 10)), min_size=3, max_size=5),
    st.floats(0.3, 1),
)
def test_a_choice_keeps_the_budget_and_is_near_the_best_of_all(
    tensors: list[tuple[int, float]], share: float
) -> None:
    table = options([n for n, _ in tensors], [c for _, c in tensors])
    least = sum(min(o.n_bytes for o in v) for v in table.values())
    most = sum(max(o.n_bytes for o in v) for v in table.values())
    budget = int(least + share * (most - least))
    found = allocate(table, budget)
    assert found.n_bytes <= budget
    best = min(
        sum(o.divergence for o in pick)
        for pick in itertools.product(*table.values())
        if sum(o.n_bytes for o in pick) <= budget
    )
    # One tensor's step is what a Lagrange multiplier can miss by.
    step = max(o.divergence for v in table.values() for o in v)
    assert best <= found.divergence * (1 + 1e-9)
    assert found.divergence <= best + step


def test_bytes_go_where_they_matter() -> None:
    table = options([4, 4], [100.0, 1.0])
    budget = 4 * (210 + 110)
    assert allocate(table, budget).types == {"t0": "Q6_K", "t1": "Q3_K"}


def test_bytes_that_are_only_stored_have_a_small_price_and_no_budget() -> None:
    """Against all choices: the least KL + multiplier * price * bytes, at the multiplier found."""
    table = options([4, 4, 4], [100.0, 1.0, 1.0])
    table["t2"] = [replace(o, price=0.1) for o in table["t2"]]
    budget = 4 * (210 + 110)
    found = allocate(table, budget)
    # The read tensors share the budget as if the third were not there; it gets a better type than
    # the read one that is as sensitive.
    assert found.types == {"t0": "Q6_K", "t1": "Q3_K", "t2": "Q6_K"}
    assert (found.n_bytes, found.counted) == (budget + 4 * 210, budget)
    assert allocate(table, budget + 4 * 210).types["t2"] == "Q6_K"
    with pytest.raises(UsageError, match=r"at least 880 B"):
        allocate(table, 879)


def test_a_budget_below_the_smallest_is_refused_with_what_would_do() -> None:
    with pytest.raises(UsageError, match=r"wanted: +at least 880 B") as error:
        allocate(options([4, 4], [1.0, 1.0]), 879)
    assert "budget" in str(error.value)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("3.5GB", Budget(n_bytes=3_500_000_000)),
        ("4 MiB", Budget(n_bytes=4 << 20)),
        ("4.5bpw", Budget(bits_per_weight=4.5)),
        ("q4_k_m", Budget(like="Q4_K_M")),
        ("1000", Budget(n_bytes=1000)),
    ],
)
def test_budgets(text: str, wanted: Budget) -> None:
    assert parse_budget(text) == wanted


@pytest.mark.parametrize("text", ["", "much", "-3GB", "4.5 parsec", "GB"])
def test_what_is_not_a_budget(text: str) -> None:
    with pytest.raises(UsageError, match="not a budget"):
        parse_budget(text)
    with pytest.raises(UsageError, match="not a size"):
        parse_size(text, "--memory")


def test_a_saved_choice_is_read_again_for_the_same_tensors_only(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    kept = Allocation({"a.weight": "Q4_K", "b.weight": "Q6_K"}, 10, 0.25)
    command.save(path, kept, "0" * 64, force=False)
    assert command.read(path, ["a.weight", "b.weight"]) == kept
    with pytest.raises(MismatchError, match=r"c\.weight"):
        command.read(path, ["a.weight", "b.weight", "c.weight"])
    path.write_text('{"types": {"a.weight": "Q99"}, "bytes": 1, "predicted_kl": 0, "schema": "x"}')
    with pytest.raises(BadFileError, match="not a saved allocation"):
        command.read(path, ["a.weight"])
