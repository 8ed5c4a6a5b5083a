"""Numbers of ggml-quants.c that the kernels share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Steps = NDArray[np.float32]

QK_K: Final = 256
"""Weights in a super-block."""
MAX_ROUNDED: Final = np.float32(4194303.0)
"""ggml's nearest_int asserts this bound."""
GROUP_MAX_EPS: Final = np.float32(1e-15)
"""A block whose largest magnitude is below is a block of zeros."""
RETRIES: Final = 5
"""Passes in which single weights may move to a better level."""
IQ4_VALUES: Final = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)
"""`kvalues_iq4nl` of ggml-common.h."""


def step_table(first: float, step: float, last: int, nmax: int) -> Steps:
    """`first + step * i + nmax` for i = 0 .. last, in float32 and in C's order."""
    steps = np.float32(first) + np.float32(step) * np.arange(last + 1, dtype=np.float32)
    return steps + np.float32(nmax)


def step_table_around(nmax: int) -> Steps:
    """`nmax + 0.1 * s` for s = -9 .. 9 without 0, in float32."""
    steps = np.array([s for s in range(-9, 10) if s], np.float32)
    return np.float32(nmax) + np.float32(0.1) * steps


# The inverse scales that each search tries, times the block's range.
STEPS_Q4_K: Final = step_table(-1.0, 0.1, 20, 15)
STEPS_Q5_K: Final = step_table(-0.5, 0.1, 15, 31)
STEPS_Q2_K: Final = step_table(-0.5, 0.1, 15, 3)
STEPS_Q4_K_WEIGHTED: Final = step_table(-0.9, 0.05, 36, 15)
STEPS_Q5_K_WEIGHTED: Final = step_table(-0.9, 0.05, 36, 31)
STEPS_Q2_K_WEIGHTED: Final = step_table(-0.9, 0.05, 36, 3)
STEPS_Q6_K: Final = step_table_around(32)
STEPS_Q3_K: Final = step_table_around(4)
STEPS_Q3_K_SCALES: Final = step_table_around(32)
STEPS_Q4_0: Final = step_table_around(8)
