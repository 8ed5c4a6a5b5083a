"""The types that give the least divergence within a number of bytes.

The divergence (KL) of the file is taken as a sum over tensors of sensitivity times relative
output error: both are measured, the first by `calibration.sensitivity`, the second by rounding
some rows of the tensor onto each type. Over the choices of one type per tensor the sum is
minimised for a given number of bytes by a Lagrange multiplier: each tensor takes the type with the
least KL + multiplier * bytes, and the multiplier is the least that keeps the budget. What is left
of the budget is spent on the best improvements that fit.

For a phone, what counts against the budget are the bytes that are read for every token. A table
that is only looked up costs space in its storage alone: its bytes have a small price and no budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pedsup.errors import UsageError
from pedsup.progress import human_bytes

TYPES: Final = ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
SMALL_BLOCK_TYPES: Final = ("Q4_0", "Q5_0", "Q8_0")
"""For rows that 256 does not divide."""
_STEPS: Final = 200


@dataclass(frozen=True)
class Option:
    """One type for one tensor: its bytes, and the divergence it adds (nats per token)."""

    type: str
    n_bytes: int
    divergence: float
    price: float = 1.0
    """Of a byte. Only bytes of price 1 count against the budget."""

    @property
    def counted(self) -> int:
        """Bytes that count against the budget."""
        return self.n_bytes if self.price == 1 else 0


@dataclass(frozen=True)
class Allocation:
    """Tensor -> type, the bytes of these tensors, and the predicted divergence of the file."""

    types: Mapping[str, str]
    n_bytes: int
    divergence: float
    counted: int | None = None
    """Those of the bytes that count against a phone's budget; None where all do."""
    mixture: float | None = None
    """The predicted divergence of llama.cpp's own types; None where one of them was not tried."""


def allocate(options: Mapping[str, Sequence[Option]], budget: int) -> Allocation:
    """Choose one option per tensor, together at most `budget` bytes that count.

    Raises:
        UsageError: the smallest choice is larger than the budget.
    """
    smallest = {
        name: min(o, key=lambda x: (x.n_bytes, x.divergence)) for name, o in options.items()
    }
    least = sum(o.counted for o in smallest.values())
    if least > budget:
        raise UsageError(
            f"the budget leaves {human_bytes(max(budget, 0))} for the matrices",
            where="--budget",
            wanted=f"at least {human_bytes(least)}: every tensor in its smallest type",
            remedy="give a larger budget, or take a smaller base",
        )
    low, high, best = 0.0, 1.0, smallest
    largest = max((o.divergence for all_ in options.values() for o in all_), default=0.0)
    high = max(largest, 1e-9)  # nats per byte: more than any byte is worth
    for _ in range(_STEPS):
        middle = (low + high) / 2 if low == 0 or high / low < 4 else (low * high) ** 0.5
        chosen = _at(options, middle)
        if sum(o.counted for o in chosen.values()) <= budget:
            high, best = middle, chosen
        else:
            low = middle
    best = _fill(options, dict(best), budget)
    n_bytes, counted = (sum(v) for v in ((o.n_bytes for o in best.values()),
                                         (o.counted for o in best.values())))  # fmt: skip
    return Allocation(
        {name: option.type for name, option in best.items()},
        n_bytes,
        sum(o.divergence for o in best.values()),
        counted if counted != n_bytes else None,
    )


def _at(options: Mapping[str, Sequence[Option]], multiplier: float) -> dict[str, Option]:
    return {
        name: min(all_, key=lambda o: (o.divergence + multiplier * o.price * o.n_bytes, o.n_bytes))
        for name, all_ in options.items()
    }


def _fill(
    options: Mapping[str, Sequence[Option]], chosen: dict[str, Option], budget: int
) -> dict[str, Option]:
    """Spend what is left, the most divergence per byte first."""
    left = budget - sum(o.counted for o in chosen.values())
    while True:
        steps = [
            ((now.divergence - o.divergence) / (o.n_bytes - now.n_bytes), name, o)
            for name, now in chosen.items()
            for o in options[name]
            if o.counted
            and now.n_bytes < o.n_bytes <= now.n_bytes + left
            and o.divergence < now.divergence
        ]
        if not steps:
            return chosen
        _, name, option = max(steps, key=lambda s: (s[0], s[1]))
        left -= option.n_bytes - chosen[name].n_bytes
        chosen[name] = option
