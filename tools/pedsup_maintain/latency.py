"""Latency figures in units of a calibration kernel, and their comparison with a baseline.

A committed baseline in seconds would measure the machine, and a shared machine at that. Each
figure is divided by the time of a fixed kernel that ran between its rounds in the same process,
and both are CPU time: what other programs take does not count, a slower clock divides out.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any, Final, Literal

import numpy as np

from pedsup_bench.report import document

SCHEMA: Final = "pedsup-latency-baseline/1"
ARITHMETIC_LOOPS: Final = 1500
ARITHMETIC_SIZE: Final = 16384
"""Floats: 64 KiB, inside the first- or second-level cache."""
STREAM_BYTES: Final = 48 << 20


class Calibration:
    """The kernel: float32 arithmetic in the cache, and one read of a buffer beyond it."""

    def __init__(self) -> None:
        self._x = np.linspace(0.5, 2.0, ARITHMETIC_SIZE, dtype=np.float32)
        self._y = np.empty_like(self._x)
        self._buffer = bytearray(b"\1") * STREAM_BYTES
        self._view = (ctypes.c_char * STREAM_BYTES).from_buffer(self._buffer)
        self._scan = ctypes.CDLL(None).memchr
        self._scan.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
        self.run()

    def run(self) -> float:
        """CPU seconds of one run."""
        started = process_time()
        x, y = self._x, self._y
        for _ in range(ARITHMETIC_LOOPS):
            np.multiply(x, x, out=y)
            np.add(y, x, out=y)
            np.sqrt(y, out=y)
        self._scan(ctypes.addressof(self._view), 0, STREAM_BYTES)
        return process_time() - started


def normalised(seconds: Sequence[float], kernel: Sequence[float]) -> float:
    """The best round in units of the best kernel run: what neither noise nor clock explains."""
    return min(seconds) / min(kernel)


@dataclass(frozen=True)
class Baseline:
    """Committed figures by machine (processor name), and how far one may exceed them."""

    tolerance: dict[str, float]
    """By figure; 'default' for the others. 1.3 lets a figure be 30 % larger."""
    unknown_machine: float
    """The factor on a processor without figures, against the largest of the known ones."""
    machines: dict[str, dict[str, float]]

    def limit(self, machine: str, figure: str) -> tuple[float, str] | None:
        """The largest value that passes and where it is from; None for a new figure."""
        own = self.machines.get(machine, {}).get(figure)
        if own is not None:
            factor = self.tolerance.get(figure, self.tolerance["default"])
            return own * factor, f"{own:.2f} on this processor, times {factor:g}"
        known = [values[figure] for values in self.machines.values() if figure in values]
        if not known:
            return None
        worst = max(known) * self.unknown_machine
        return worst, f"{max(known):.2f} on another processor, times {self.unknown_machine:g}"


Outcome = Literal["pass", "fail", "new"]


def judge(baseline: Baseline, machine: str, figure: str, value: float) -> tuple[Outcome, str]:
    """Compare one figure with the baseline; the sentence says by how much."""
    limit = baseline.limit(machine, figure)
    if limit is None:
        return "new", f"{figure}: {value:.2f} kernels, not in the baseline"
    most, why = limit
    if value > most:
        return "fail", (
            f"{figure}: {value:.2f} kernels, {value / most - 1:.0%} beyond the limit {most:.2f} "
            f"(baseline {why})"
        )
    return "pass", f"{figure}: {value:.2f} kernels, limit {most:.2f} (baseline {why})"


def read_baseline(path: Path) -> Baseline:
    """Read a committed baseline.

    Raises:
        BadFileError: missing or not a baseline.
    """
    return document.read(Baseline, path, SCHEMA)


def update_baseline(path: Path, machine: str, figures: dict[str, float]) -> None:
    """Replace the figures of this machine; the others and the tolerances stay."""
    values: dict[str, Any] = json.loads(path.read_text("utf-8"))
    own = {**values["machines"].get(machine, {}), **{k: round(v, 3) for k, v in figures.items()}}
    values["machines"][machine] = dict(sorted(own.items()))
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
