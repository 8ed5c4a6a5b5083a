"""Quantizer speed: our vector kernels against ggml's C code, one thread, in one run.

    python -m pedsup_maintain.kernels [--types Q4_K,Q6_K] [--seconds 1] [--threads 2] [--json]

Both sides pack the same rows in turn, and the figures are of CPU time (`time.thread_time`), so
that another program on the machine disturbs the ratio little. `--threads N` adds how much
faster N threads are than one, from wall time and from what the kernel scheduler gave them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pedsup.gguf_file.ggml_types import BY_NAME, GGMLType
from pedsup_export.kernels import dispatch, ggml

Rows = NDArray[np.float32]
WIDTH, ROWS = 2560, 256
TYPES = ("Q4_K", "Q5_K", "Q6_K", "Q3_K", "Q2_K", "Q4_0", "Q8_0", "IQ4_XS")


@dataclass(frozen=True)
class Row:
    """One line of the table; speeds in million weights per second of CPU time."""

    type: str
    weighted: bool
    ggml: float
    ours: float
    ratio: float
    """Median of the ratios of neighbouring measurements."""
    same_bytes: bool
    scaling: float | None
    """Throughput of `--threads` threads over that of one, wall time."""
    cpu_scaling: float | None
    """The same if each thread had a core of its own: from CPU time."""


def _seconds(call: Callable[[], None]) -> float:
    start = time.thread_time()
    call()
    return time.thread_time() - start


def measure(kind: GGMLType, weighted: bool, seconds: float, threads: int) -> Row:
    """Time one type, with or without importances, for about `seconds` on each side."""
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((ROWS, WIDTH)) * 0.03).astype(np.float32)
    importance = (rng.standard_exponential(WIDTH) ** 2).astype(np.float32) if weighted else None
    theirs = np.empty((ROWS, kind.row_bytes(WIDTH)), np.uint8)
    ours = np.empty_like(theirs)
    found = dispatch.kernel_for(kind, weighted)
    pack = ggml.quantize_into if found is None else found.quantize_into
    peer: list[float] = []
    mine: list[float] = []
    while sum(peer) < seconds or len(peer) < 3:
        peer.append(_seconds(lambda: ggml.quantize_into(rows, kind, importance, theirs)))
        repeat = max(1, round(peer[-1] / mine[-1])) if mine else 1
        again = partial(_again, repeat, pack, rows, kind, importance, ours)
        mine.append(_seconds(again) / repeat)
    ratio = statistics.median(p / m for p, m in zip(peer, mine, strict=True))
    scaling = _scaling(lambda: pack(rows, kind, importance, np.empty_like(ours)), threads, seconds)
    million = rows.size / 1e6
    return Row(
        kind.name,
        weighted,
        million / statistics.median(peer),
        million / statistics.median(mine),
        ratio,
        ours.tobytes() == theirs.tobytes(),
        *scaling,
    )


def _again(
    times: int,
    pack: Callable[[Rows, GGMLType, Rows | None, NDArray[np.uint8]], None],
    rows: Rows,
    kind: GGMLType,
    importance: Rows | None,
    out: NDArray[np.uint8],
) -> None:
    for _ in range(times):
        pack(rows, kind, importance, out)


def _scaling(
    call: Callable[[], None], threads: int, seconds: float
) -> tuple[float | None, float | None]:
    """Throughput of `threads` threads over one: by wall time, and by CPU time per call."""
    if threads < 2:
        return None, None
    alone, alone_cpu = _rate(call, 1, seconds)
    together, together_cpu = _rate(call, threads, seconds)
    return together / alone, threads * alone_cpu / together_cpu


def _rate(call: Callable[[], None], threads: int, seconds: float) -> tuple[float, float]:
    """Calls per second of wall time, and CPU seconds per call, of so many threads."""
    done = [0] * threads
    cpu = [0.0] * threads
    end = time.perf_counter() + seconds

    def work(which: int) -> None:
        start = time.thread_time()
        while time.perf_counter() < end:
            call()
            done[which] += 1
        cpu[which] = time.thread_time() - start

    start = time.perf_counter()
    workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(done) / (time.perf_counter() - start), sum(cpu) / sum(done)


def main(arguments: list[str] | None = None) -> None:
    """Print the table, or with --json one document."""
    parser = argparse.ArgumentParser(prog="pedsup_maintain.kernels", description=__doc__)
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--seconds", type=float, default=1.0, help="per type and side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    rows = []
    head = f"{'type':8}{'importance':>12}{'ggml M/s':>10}{'ours M/s':>10}{'ratio':>8}{'bytes':>8}"
    for name in options.types.split(","):
        for weighted in (False, True):
            row = measure(BY_NAME[name], weighted, options.seconds, options.threads)
            rows.append(row)
            if not options.json:
                if len(rows) == 1:
                    print(head + (f"{'scaling':>9}{'(cpu)':>7}" if row.scaling else ""))
                print(_line(row), flush=True)
    for (name, weighted), reason in dispatch.why_ggml().items():
        print(f"{name}, importance {weighted}: {reason}", file=sys.stderr)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))


def _line(row: Row) -> str:
    line = (
        f"{row.type:8}{'imatrix' if row.weighted else '-':>12}{row.ggml:10.1f}{row.ours:10.1f}"
        f"{row.ratio:8.1f}{'same' if row.same_bytes else 'DIFFER':>8}"
    )
    if row.scaling is not None:
        line += f"{row.scaling:9.2f}{row.cpu_scaling:7.2f}"
    return line


if __name__ == "__main__":
    main()
