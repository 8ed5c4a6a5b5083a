"""Parameters of which a fast run tries some, and CI all."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import pytest


def slow_but(fast: Container[Any], values: Iterable[Any]) -> list[Any]:
    """`values` for `pytest.mark.parametrize`: those not in `fast` are marked slow.

    Tuples are values of several parameters, as `parametrize` takes them.
    """
    slow = pytest.mark.slow
    return [
        value if value in fast else pytest.param(*_parts(value), marks=slow) for value in values
    ]


def _parts(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
